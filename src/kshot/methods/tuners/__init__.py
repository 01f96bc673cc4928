"""What is learnt when an example arrives. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Tuner

TUNERS = Room(
    "tuner",
    Tuner,
    {
        "fine-tune": "kshot.methods.tuners.fine_tune:FineTune",
        "icl+ft": "kshot.methods.tuners.icl_ft:IclFt",
        "linked": "kshot.methods.tuners.linked:Linked",
        "spectrum": "kshot.methods.tuners.spectrum:Spectrum",
    },
)
