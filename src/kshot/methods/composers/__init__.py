"""What is said: instruction, notes, demonstrations, question. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Composer

COMPOSERS = Room(
    "composer",
    Composer,
    {
        "wording": "kshot.methods.composers.wording:Wording",
        "recycled": "kshot.methods.composers.recycled:Recycled",
        "schema": "kshot.methods.composers.schema_activated:SchemaActivated",
        "calls": "kshot.methods.composers.called_functions:Calls",
        "reason-first": "kshot.methods.composers.reason_first:ReasonFirst",
        "label-first": "kshot.methods.composers.label_first:LabelFirst",
    },
)
