"""How sure a measured value is."""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kshot.measures.metrics import get_metric, row_score, statistic
from kshot.measures.text_metrics import References


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Return the interval for a proportion; without data (n = 0) it is all of 0..1.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        successes: How many of `n` succeeded.
        n: How many were tried.
        level: The share of such intervals that contain the true proportion.

    Source: Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953. Differs: nothing.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    p = successes / n
    centre = p + z2 / (2 * n)
    reach = sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
    low, high = (centre - reach) / (1 + z2 / n), (centre + reach) / (1 + z2 / n)
    return max(0.0, low), min(1.0, high)


def bootstrap(
    value: Callable[[NDArray[np.integer]], float],
    n: int,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Return the percentile interval of `value` over resamples of `n` rows.

    It has no width where all rows agree, as in a perfect score: then it says less than it seems to.

    Args:
        value: The statistic of the rows with the given indices, [n], drawn with replacement.
        n: Number of rows, 1 or more.
        rng: Draws the resamples.
        level: The share of resamples inside the interval.
        resamples: How many are drawn.

    Source: Efron (1979), https://doi.org/10.1214/aos/1176344552. Differs: nothing.
    """
    values = [value(rng.integers(n, size=n)) for _ in range(resamples)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval(
    name: str,
    references: Sequence[References],
    answers: Sequence[str],
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return (value, low, high) of a metric at 95%: Wilson where rows are right or wrong, bootstrap elsewhere.

    Wilson's formula takes rows' scores for 0 or 1, so it would be far too wide for fractions, as those of squad_f1.

    One row, which a bootstrap would take for certain, and no row give all of the metric's range; the value of
    no row is NaN. Where resamples do not differ, as with nothing but perfect answers, the bootstrap has no width,
    which is no certainty: Wilson's interval of the rows' own scores, widened to hold the value, stands for it.
    See `kshot.measures.metrics.statistic` for the arguments.
    """
    metric = get_metric(name)
    value = statistic(name, references, answers, labels=labels, positive_label=positive_label)
    n = len(answers)
    measured = value(np.arange(n))
    if metric.zero_one:
        low, high = wilson(round(measured * n) if n else 0, n)
    elif n < 2:
        low, high = metric.lowest, metric.highest(len(labels))
    else:
        low, high = bootstrap(value, n, rng=rng)
        if low == high:
            around = wilson(sum(row_score(name, *row) for row in zip(references, answers, strict=True)), n)
            if metric.smaller_is_better:  # as if each wrong row were one label off
                around = 1 - around[1], 1 - around[0]
            low, high = min(low, around[0]), max(high, around[1])
    return measured, low, high
