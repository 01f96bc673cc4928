"""Learning curves of several recipes on the same rows: who will be ahead at the end, and how sure that is."""

from collections.abc import Sequence

import numpy as np

from kshot.core.types import FloatArray

LEAST_BITS = 0.1  # added before the logarithm: less than that tells little of a curve


def projected(values: FloatArray, known: Sequence[int], n_end: int, shrink: float) -> FloatArray:
    """Return each recipe's value after `n_end` examples, relative to the mean of all recipes, `[n_recipes]`.

    A straight line in the logarithm of the number of examples known is fitted to the differences from the rows' means
    (what makes a row hard for all drops out) and read off at `n_end + 1`. Its slope is shrunk towards 0 (ridge), as
    slopes of short streams are mostly noise: S_xy / (S_xx + shrink).

    Args:
        values: `[n_recipes, n]`, in the order of the stream.
        known: How many examples were known at each of the n rows.
        n_end: Examples known at the end.
        shrink: 0 trusts the slopes; infinity gives plain means.
    """
    gaps = values - values.mean(axis=0)
    x, reach = _centred(known, n_end)
    return gaps.mean(axis=1) + gaps @ x / (x @ x + shrink) * reach


def at_end(values: FloatArray, known: Sequence[int], n_end: int, shrink: float) -> float:
    """Return one recipe's value after `n_end` examples: its mean, moved along its shrunk slope; `values` are `[n]`."""
    x, reach = _centred(known, n_end)
    return float(values.mean() + values @ x / (x @ x + shrink) * reach)


def moved(bits: FloatArray, known: Sequence[int], n_end: int, shrink: float) -> FloatArray:
    """Return one recipe's bits `[n]` as they would be after `n_end` examples: positive, and zero where they are.

    They follow a power of the number of examples known, as learning curves do: its exponent is the shrunk slope of
    log(bits + 0.1). A straight line would lead below 0 bits where the first answers cost many times as many as others.
    """
    x, reach = _centred(known, n_end)
    return bits * np.exp(x @ np.log(bits + LEAST_BITS) / (x @ x + shrink) * (reach - x))


def uncertainty(gaps: FloatArray, known: Sequence[int], n_end: int, shrink: float) -> float:
    """Return the standard error of a projected difference of two recipes, from its differences row by row `[n]`.

    s sqrt(1/n + reach^2 / (S_xx + shrink)): with a slope drawn around 0 with the variance s^2 / shrink, this is
    the posterior's spread, so few rows far from the end leave much open.
    """
    return float(gaps.std(ddof=1) * np.sqrt(_variance(known, n_end, shrink)))


def rows_worth(known: Sequence[int], n_end: int, shrink: float) -> float:
    """Return how many rows at the end of the curve would tell as much about it as those along it: fewer."""
    return 1 / _variance(known, n_end, shrink)


def _variance(known: Sequence[int], n_end: int, shrink: float) -> float:
    """Return the variance of a projected value, in variances of a row."""
    x, reach = _centred(known, n_end)
    return 1 / len(x) + reach**2 / float(x @ x + shrink)


def _centred(known: Sequence[int], n_end: int) -> tuple[FloatArray, float]:
    """Return the logarithms of the numbers known, plus 1, around their mean, and how far that of the end lies from it.

    One is added as log 0 is none.
    """
    x = np.log(np.asarray(known) + 1)
    return x - x.mean(), float(np.log(n_end + 1) - x.mean())
