"""Does a confidence hold? Errors of stated confidences, and whether the right answers have the higher ones."""

from collections.abc import Sequence

import numpy as np

from kshot.core.types import FloatArray

BINS = 10


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Return ECE: the mean over answers of |accuracy - mean confidence| of their bin; equal widths, 1 in the last.

    Source: Guo et al. (2017), section 2, https://arxiv.org/abs/1706.04599.
    """
    c, r = _arrays(confidences, right)
    place = np.minimum((c * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=values, minlength=bins) for values in (c, r)]
    return float(np.abs(sums[1] - sums[0])[counts > 0].sum() / len(c))


def brier(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Return the mean of (confidence - right)^2, with 1 for right answers and 0 for others."""
    c, r = _arrays(confidences, right)
    return float(((c - r) ** 2).mean())


def separation(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return SPR: how probable it is that a right answer has a higher confidence than a wrong one; ties count 0.

    None where all answers are right, or all wrong.
    """
    c, r = _arrays(confidences, right)
    high, low = c[r == 1], np.sort(c[r == 0])
    if not (len(high) and len(low)):
        return None
    return float(np.searchsorted(low, high, side="left").mean() / len(low))


def gap(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Return OCG: mean confidence - accuracy; above 0 is overconfident."""
    c, r = _arrays(confidences, right)
    return float(c.mean() - r.mean())


def _arrays(confidences: Sequence[float], right: Sequence[bool]) -> tuple[FloatArray, FloatArray]:
    return np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
