"""Which answers are doubtful. One file a gate; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.gates.gate import Gate

GATES = Room(
    "gate",
    Gate,
    {
        "log-prob": "kshot.methods.gates.log_prob:LogProb",
        "disagreement": "kshot.methods.gates.disagreement:Disagreement",
        "steps": "kshot.methods.gates.step_scores:StepScores",
    },
)
