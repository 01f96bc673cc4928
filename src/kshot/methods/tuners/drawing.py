"""What the tuners draw: the example that a step is about, and others beside it."""

from collections.abc import Sequence

import numpy as np

from kshot.core.types import Example

TARGETS = ("current", "any-seen")


def draw(
    seen: Sequence[Example], n_others: int, *, target: str, rng: np.random.Generator
) -> tuple[Example, tuple[Example, ...]]:
    """Return the target, which is the last of `seen` or any of them, and others, drawn without replacement."""
    at = len(seen) - 1 if target == "current" else int(rng.integers(len(seen)))
    rest = [i for i in range(len(seen)) if i != at]
    chosen = rng.permutation(len(rest))[:n_others] if n_others else []
    return seen[at], tuple(seen[rest[i]] for i in chosen)
