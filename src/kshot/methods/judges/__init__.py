"""How good each step of a reason is. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.judges.judge import Judge

JUDGES = Room(
    "judge",
    Judge,
    {"none": "kshot.methods.judges.no_judge:NoJudge", "plus-minus": "kshot.methods.judges.plus_minus:PlusMinus"},
)
