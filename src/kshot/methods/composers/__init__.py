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
        "recycled": "kshot.methods.composers.recycled:Recycled",
        "schema": "kshot.methods.composers.schema_activated:SchemaActivated",
        "calls": "kshot.methods.composers.calls:Calls",
        "reason-first": "kshot.methods.composers.reason_first:ReasonFirst",
        "label-first": "kshot.methods.composers.label_first:LabelFirst",
        "notes": "kshot.methods.composers.kept_notes:Notes",
        "elaborated": "kshot.methods.composers.elaborated:Elaborated",
    },
)
