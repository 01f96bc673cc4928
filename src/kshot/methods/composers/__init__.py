"""What is said: instruction, notes, demonstrations, question. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Composer

COMPOSERS = Room(
    "composer",
    Composer,
    {
        "wording": "kshot.methods.composers.wording:Wording",
        "notes": "kshot.methods.composers.kept_notes:Notes",
        "elaborated": "kshot.methods.composers.elaborated:Elaborated",
    },
)
