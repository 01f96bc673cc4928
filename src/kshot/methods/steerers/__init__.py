"""How activations are changed in place of examples. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Steerer

# On request: they ask for many prompts or train, or are there to compare others with.
STEERERS = Room(
    "steerer",
    Steerer,
    {
        "icv": "kshot.methods.steerers.icv:Icv",
        "function-vector": "kshot.methods.steerers.function_vector:FunctionVector",
        "soft-injection": "kshot.methods.steerers.soft_injection:SoftInjection",
        "attention": "kshot.methods.steerers.weighed_attention:Attention",
        "knob": "kshot.methods.steerers.knob:Knob",
        "random-direction": "kshot.methods.steerers.random_direction:RandomDirection",
    },
    on_request=("function-vector", "soft-injection", "attention", "knob", "random-direction"),
)
