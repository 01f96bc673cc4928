"""Which of two recipes is better on the same examples, and how sure that is.

Both are asked the same examples, so their differences are compared: what makes an example hard for both drops out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.special import stdtrit  # of Student's t; scipy.stats takes half a second to import

from kshot.core.types import FloatArray

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def score_difference(ours: Sequence[float], theirs: Sequence[float], level: float = LEVEL) -> Difference:
    """Return the mean difference of scores in 0..1 of the same rows, with an interval that also few rows keep.

    With d the n differences, m = sum d / (n + 2): m +- z sqrt((sum d^2 + 1) / (n + 2) - m^2) / sqrt(n + 2). For scores
    of 0 and 1 this is Agresti and Min's interval, which adds half a row to each of the four outcomes; an interval from
    the differences alone has no width where two recipes agree on every row, as they often do on few.

    Source: Agresti and Min (2005), https://doi.org/10.1002/sim.1781. Differs: also for scores between 0 and 1.
    """
    d = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    n = len(d)
    middle = float(d.sum()) / (n + 2)
    spread = sqrt(max(0.0, (float(d @ d) + 1) / (n + 2) - middle**2) / (n + 2))
    reach = NormalDist().inv_cdf((1 + level) / 2) * spread
    return Difference(float(d.mean()) if n else 0.0, max(-1.0, middle - reach), min(1.0, middle + reach), n)


def bits_difference(ours: Sequence[float], theirs: Sequence[float], level: float = LEVEL) -> Difference:
    """Return the mean difference of bits of the same rows, with Student's interval; negative is better."""
    d = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    n = len(d)
    if n < 2:
        return Difference(float(d.mean()) if n else 0.0, -np.inf, np.inf, n)
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * float(d.std(ddof=1)) / sqrt(n)
    return Difference(float(d.mean()), float(d.mean()) - reach, float(d.mean()) + reach, n)


def trend(values: Sequence[float], known: Sequence[int], level: float = LEVEL) -> tuple[float, float, float]:
    """Return how much values change along a stream, per factor of e in examples, with the interval of that.

    A straight line in the logarithm of the number of examples known is fitted to all rows by least squares; the
    interval is that of its slope, by the residuals' own spread (HC3).

    Args:
        values: Scores or bits in the order of the stream, 3 or more.
        known: How many examples were known at each of them.
        level: The share of such intervals that contain what they are for.

    Returns:
        (slope, low, high).

    Source: MacKinnon and White (1985), https://doi.org/10.1016/0304-4076(85)90158-7, for the spread. A logarithmic
    learning curve is the simplest one that flattens. Differs: nothing.
    """
    y = np.asarray(values, dtype=np.float64)
    n, at = len(y), np.array([0.0, 1.0])
    x = np.column_stack([np.ones(n), np.log(np.asarray(known) + 1)])  # log 0 is none
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    residuals = (y - x @ beta) / np.maximum(1 - leverage, 1e-9)
    weights: FloatArray = at @ inverse @ x.T
    reach = float(stdtrit(n - 2, (1 + level) / 2)) * sqrt(float(np.sum((weights * residuals) ** 2)))
    value = float(at @ beta)
    return value, value - reach, value + reach


def reach_of_all_pairs(n: int, n_rows: int, level: float = LEVEL) -> float:
    """Return how many standard errors a difference of two of `n` must exceed to be clear, for all pairs together.

    Student's, for all n (n - 1) / 2 pairs (Bonferroni), as the best one was looked for among all.

    Args:
        n: 2 or more.
        n_rows: 2 or more, of which the standard error is.
        level: Of all together.
    """
    return float(stdtrit(n_rows - 1, 1 - (1 - level) / (n * (n - 1))))


def by_id(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Return `key` ("score" or "bits") of those rows that have it, by the examples' ids."""
    return {r["example_id"]: float(r[key]) for r in rows if r[key] is not None}


def compared(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], *, level: float = LEVEL
) -> dict[str, Difference]:
    """Return the differences of `score` and `bits` of two recipes' sample rows, over the examples that both have."""
    found = {}
    for key, difference in (("score", score_difference), ("bits", bits_difference)):
        a, b = by_id(ours, key), by_id(theirs, key)
        both = [i for i in a if i in b]
        found[key] = difference([a[i] for i in both], [b[i] for i in both], level)
    return found
