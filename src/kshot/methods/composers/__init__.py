"""What is said: instruction, notes, demonstrations, question. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Composer

COMPOSERS = Room(
    "composer",
    Composer,
    {
        "instruction": "kshot.methods.composers.instruction:Instruction",
        "series": "kshot.methods.composers.series:Series",
        "wording": "kshot.methods.composers.wording:Wording",
        "verbalised": "kshot.methods.composers.verbalised:Verbalised",
    },
)
