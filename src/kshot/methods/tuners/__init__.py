"""What is learnt when an example arrives. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Tuner

# On request: each is for a purpose of its own, and training takes most of a race's time.
TUNERS = Room(
    "tuner",
    Tuner,
    {
        "fine-tune": "kshot.methods.tuners.fine_tune:FineTune",
        "icl+ft": "kshot.methods.tuners.icl_ft:IclFt",
        "distil": "kshot.methods.tuners.distillation:Distil",
        "self-training": "kshot.methods.tuners.self_training:SelfTraining",
        "cings": "kshot.methods.tuners.cings:Cings",
        "tagged": "kshot.methods.tuners.tagged:Tagged",
        "intent": "kshot.methods.tuners.intent:Intent",
        "context-adapter": "kshot.methods.tuners.context_adapter:ContextAdapter",
        "pooled": "kshot.methods.tuners.pooled:Pooled",
        "linked": "kshot.methods.tuners.linked:Linked",
        "windowed": "kshot.methods.tuners.windowed:Windowed",
        "spectrum": "kshot.methods.tuners.spectrum:Spectrum",
        "supportive": "kshot.methods.tuners.supportive:Supportive",
    },
    on_request=(
        "distil",
        "self-training",
        "cings",
        "tagged",
        "intent",
        "context-adapter",
        "pooled",
        "linked",
        "windowed",
        "spectrum",
        "supportive",
    ),
)
