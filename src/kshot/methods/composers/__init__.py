"""What is said: instruction, notes, demonstrations, question. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Composer

COMPOSERS = Room(
    "composer",
    Composer,
    {
        "calls": "kshot.methods.composers.called_functions:Calls",
        "elaborated": "kshot.methods.composers.elaborated:Elaborated",
        "instruction": "kshot.methods.composers.instruction:Instruction",
        "label-first": "kshot.methods.composers.label_first:LabelFirst",
        "notes": "kshot.methods.composers.kept_notes:Notes",
        "reason-first": "kshot.methods.composers.reason_first:ReasonFirst",
        "recycled": "kshot.methods.composers.recycled:Recycled",
        "schema": "kshot.methods.composers.schema_activated:SchemaActivated",
        "series": "kshot.methods.composers.series:Series",
        "stated": "kshot.methods.composers.stating:Stated",
        "verbalised": "kshot.methods.composers.verbalised:Verbalised",
        "yes-no": "kshot.methods.composers.yes_no:YesNo",
        "wording": "kshot.methods.composers.wording:Wording",
    },
)
