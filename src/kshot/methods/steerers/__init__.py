"""How activations are changed in the place of examples. One file a method; this table makes them known."""

STEERERS: dict[str, str] = {
    "icv": "kshot.methods.steerers.icv:Icv",
    "function-vector": "kshot.methods.steerers.function_vector:FunctionVector",
    "soft-injection": "kshot.methods.steerers.soft_injection:SoftInjection",
    "random-direction": "kshot.methods.steerers.random_direction:RandomDirection",
}
# These are run when they are named: they ask for many prompts or train, or are there to compare others with.
ON_REQUEST = ("function-vector", "soft-injection", "random-direction")
