"""What is learnt when an example arrives. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Tuner

TUNERS = Room(
    "tuner",
    Tuner,
    {
        "fine-tune": "kshot.methods.tuners.fine_tune:FineTune",
        "icl+ft": "kshot.methods.tuners.icl_ft:IclFt",
        "cings": "kshot.methods.tuners.cings:Cings",
        "tagged": "kshot.methods.tuners.tagged:Tagged",
        "intent": "kshot.methods.tuners.intent:Intent",
    },
    on_request=("cings", "tagged", "intent"),
)
