"""Draws that take as equal numbers of each output as there are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def balanced(outputs: Sequence[str], n: int, *, rng: np.random.Generator) -> list[int]:
    """Return `n` distinct places (all of fewer), drawn so that the outputs there are as even as they can be.

    A place's round is how many of its output are drawn before it, and earlier rounds are taken first. Within a round
    chance decides anew: the order of the first draw would favour frequent outputs, which turn up early in it.
    """
    order: list[int] = rng.permutation(len(outputs)).tolist()
    seen: Counter[str] = Counter()
    rounds = {}
    for i in order:
        rounds[i] = seen[outputs[i]]
        seen[outputs[i]] += 1
    lots = rng.random(len(order))
    return sorted(order, key=lambda i: (rounds[i], lots[i]))[:n]
