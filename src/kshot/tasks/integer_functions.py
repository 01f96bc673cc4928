"""Classes of linear functions with whole weights that are small enough to list, with the points that teach one of them.

Source: Panwar et al. (2023), In-Context Learning through the Bayesian Prism, https://arxiv.org/abs/2306.04891.
Differs: whole weights from a list in place of Gaussian ones, so that what is known after some examples is exact.
"""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.types import FloatArray
from kshot.tasks.function_classes import FunctionClass, completed, merged

LEAST_D, MOST_D = 2, 4
MOST_WEIGHT, N_USED, CENTRE = 2, 2, 3
SEARCHED = 2  # of all sets of so many points it is known which teach
Weights = NDArray[np.int16]


def _grid(values: range | tuple[int, ...], d: int) -> Weights:
    return np.array(list(product(values, repeat=d)), dtype=np.int16)


def _sparse(d: int) -> Weights:
    grid = _grid(range(-MOST_WEIGHT, MOST_WEIGHT + 1), d)
    return grid[(grid != 0).sum(axis=1) == N_USED]


def _mixture(d: int) -> Weights:
    around = _grid((-1, 0, 1), d)
    centre = CENTRE * np.eye(d, dtype=np.int16)[0]
    return np.concatenate([around + centre, around - centre])


_WEIGHTS: Mapping[str, Callable[[int], Weights]] = {
    "dense": lambda d: _grid(range(-MOST_WEIGHT, MOST_WEIGHT + 1), d),
    "sparse": _sparse,
    "sign": lambda d: _grid((-1, 1), d),
    "mixture": _mixture,
}
INTEGER_CLASSES = tuple(_WEIGHTS)


@cache
def integer_class(name: str, d: int) -> FunctionClass:
    """Return a class of functions y = sum w_i x_i from d numbers -1, 0 or 1 to a whole number, all equally probable.

    dense: w_i from -2 to 2; sparse: two of them are not 0; sign: 1 or -1; mixture: -1, 0 or 1, and 3 more or 3 less for
    the first one, each half the time.

    The points that teach a function are one or two where these suffice (all sets of so many are looked through), and
    otherwise more, each the one that rules out the most; the d points with a single 1 suffice always.

    Raises:
        UserError: There is no such class, or `d` is not in its range.
    """
    if name not in _WEIGHTS:
        raise UserError(f"of must be one of {', '.join(_WEIGHTS)}; got '{name}'.")
    if not LEAST_D <= d <= MOST_D:
        raise UserError(
            f"d must be in {LEAST_D}..{MOST_D} for {name}, whose functions are listed; got {d}. Take another d."
        )
    points = _grid((-1, 0, 1), d)
    values = _WEIGHTS[name](d) @ points.T  # [n_functions, 3^d]
    labels = sorted(set(values.ravel().tolist()))
    tables, prior, _ = merged((values - labels[0]).astype(np.int8), np.ones(len(values)))
    at = {label: i for i, label in enumerate(labels)}
    tables = np.vectorize(lambda value: at[value + labels[0]], otypes=[np.int8])(tables)

    @cache
    def teaching(function: int) -> tuple[int, ...]:
        found = _fewest(tables, function)
        single = tuple(int(i) for i in np.flatnonzero((points.sum(axis=1) == 1) & (np.abs(points).sum(axis=1) == 1)))
        return found or completed(tables, function, (), most=d) or single

    return FunctionClass(
        name=f"{name} functions of {d} numbers",
        inputs=tuple(" ".join(map(str, point)) for point in points.tolist()),
        labels=tuple(map(str, labels)),
        tables=tables,
        prior=prior,
        instruction="Each text is a row of numbers. Say the number that follows by the rule of the examples.",
        teaching=teaching,
        is_forced=False,
    )


def _fewest(tables: NDArray[np.int8], function: int) -> tuple[int, ...] | None:
    """Return the first smallest set of at most `SEARCHED` inputs after which one function alone is possible."""
    same = np.packbits(tables == tables[function], axis=0).T  # [n_inputs, n_functions / 8]
    for size in range(1, SEARCHED + 1):
        sets = np.array(list(combinations(range(len(same)), size)))
        left = same[sets[:, 0]]
        for column in range(1, size):
            left = left & same[sets[:, column]]
        teaches = np.bitwise_count(left).sum(axis=1) == 1
        if teaches.any():
            return tuple(map(int, sets[teaches.argmax()]))
    return None


def mean_weights(found: FunctionClass, weights: FloatArray) -> FloatArray:
    """Return the mean output at every input of weighed functions, `[n_inputs]`: the posterior mean."""
    return weights @ np.array(found.labels, dtype=float)[found.tables]
