"""What the tuners draw: the example that a step is about, and others beside it."""

from collections.abc import Sequence

import numpy as np

from kshot.core.types import Example
from kshot.methods.balance import balanced

TARGETS = ("current", "any-seen")


def draw(
    seen: Sequence[Example], n_others: int, *, target: str, evenly: bool, rng: np.random.Generator
) -> tuple[Example, tuple[Example, ...]]:
    """Return the target, which is the last of `seen` or any of them, and others, drawn without replacement.

    Args:
        seen: All examples so far.
        n_others: How many others, if there are so many.
        target: One of `TARGETS`.
        evenly: Take as equal numbers of each output as there are, instead of each example with the same chance.
        rng: For every random choice.
    """
    if evenly:
        rest = [e.output for e in (seen[:-1] if target == "current" else seen)]
        places = balanced(rest, n_others + (target != "current"), rng=rng)
        *places, at = [*places, len(seen) - 1] if target == "current" else rng.permutation(places).tolist()
        return seen[at], tuple(seen[i] for i in places)
    at = len(seen) - 1 if target == "current" else int(rng.integers(len(seen)))
    rest = [i for i in range(len(seen)) if i != at]
    chosen = rng.permutation(len(rest))[:n_others] if n_others else []
    return seen[at], tuple(seen[rest[i]] for i in chosen)
