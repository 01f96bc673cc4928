"""Who is dropped on the way: those behind the best third that are clearly behind the leader.

After 16, 32, 64, … predictions the best third stays. One of the others is dropped if its bits, projected to the end of
the stream, are behind the leader's by more than their uncertainty: a bad start alone drops nobody, as a slope that
may still change the order counts as uncertainty. Bits tell more than right or wrong after few examples; they are
paired row by row, and clipped, so that one surprise does not decide. Recipes that ask no model cost nothing and stay.

Decisions rest on bits alone, never on seconds, so a race that is interrupted ends as if it had not been.

Source: Jamieson and Talwalkar (2016), successive halving, https://arxiv.org/abs/1502.07943; the catch-up phenomenon:
van Erven, Grunwald and de Rooij (2012), https://doi.org/10.1111/j.1467-9868.2011.01025.x. Differs: what is not clearly
behind is spared; its constants were chosen in simulated races (`kshot bench race`).
"""

from collections.abc import Mapping, Sequence, Set
from math import ceil

import numpy as np

from kshot.core.types import FloatArray
from kshot.measures.curves import projected, uncertainty

FIRST_SLICE = 16
STAYS = 3  # one in three, whatever its bits
SHRINK = 100.0  # of slopes: see `kshot.measures.curves`
BEHIND = 1.2  # standard errors
CLIP = 2.0  # times the median of an answer's bits, or 2 bits where that is less than one


def slices(n: int) -> list[tuple[int, int]]:
    """Return the parts in which `n` predictions are made: they end at 16, 32, 64, … and at the last one.

    Where all examples are predicted, choices that rest on the past are made anew at the same places, so parts share
    little of their prompts.
    """
    ends = [end for i in range(n.bit_length()) if FIRST_SLICE <= (end := 1 << i) < n]
    return list(zip([0, *ends], [*ends, n], strict=True))


def clipped(bits: FloatArray) -> FloatArray:
    """Return bits `[n_recipes, n]` with the largest ones cut off."""
    return np.minimum(bits, CLIP * max(1.0, float(np.median(bits))))


def dropped(
    bits: Mapping[str, Sequence[float]], known: Sequence[int], n_end: int, *, free: Set[str] = frozenset()
) -> dict[str, str]:
    """Return which recipes are dropped now, with the reason.

    Args:
        bits: Of each recipe that is still in the race, over the same examples, 2 or more.
        known: How many examples were known at each of these.
        n_end: Examples that the adapted model will know.
        free: Recipes that cost nothing.
    """
    names = list(bits)
    values = -clipped(np.array([bits[name] for name in names], dtype=np.float64))
    n, ends = values.shape[1], projected(values, known, n_end, SHRINK)
    ranked = sorted(range(len(names)), key=lambda i: -ends[i])
    leader = ranked[0]
    found = {}
    for i in ranked[ceil(len(ranked) / STAYS) :]:
        behind = ends[leader] - ends[i]
        spread = uncertainty(values[leader] - values[i], known, n_end, SHRINK)
        if names[i] not in free and behind > BEHIND * spread:
            found[names[i]] = (
                f"dropped after {n} predictions: by the curves so far it ends {behind:.2f} bits behind {names[leader]} "
                f"(standard error {spread:.2f})"
            )
    return found
