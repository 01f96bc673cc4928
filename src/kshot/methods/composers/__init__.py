"""What is said: instruction, notes, demonstrations, question. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Composer

COMPOSERS = Room(
    "composer",
    Composer,
    {
        "wording": "kshot.methods.composers.wording:Wording",
        "reason-first": "kshot.methods.composers.reason_first:ReasonFirst",
        "label-first": "kshot.methods.composers.label_first:LabelFirst",
    },
)
