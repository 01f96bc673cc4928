"""Where seeds enter: every generator derives from (seed, names), so neither order nor sharding changes a result."""

import hashlib

import numpy as np

from kshot.core.json_text import to_json


def digest(*parts: object) -> str:
    """Return the sha256 of `parts`, written as canonical JSON, as 64 hex digits."""
    text = to_json(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a generator that depends on the seed and the names alone.

    Args:
        seed: The run's seed; 0 is a seed like any other.
        names: What the randomness is for, as ("stream",) or ("random", example id).

    Example:
        >>> int(generator(0, "stream").integers(100)) == int(generator(0, "stream").integers(100))
        True
    """
    return np.random.default_rng(int(digest(seed, *names), 16))
