"""Classes of Boolean functions that are small enough to list, with the points that teach a function of them.

Source: Bhattamishra et al. (2023), Understanding In-Context Learning in Transformers and LLMs by Learning to Learn
Discrete Functions, https://arxiv.org/abs/2310.03016.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations, islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.tasks.function_classes import FunctionClass, completed, merged

LEAST_D, MOST_D = 3, 8
LABELS = ("no", "yes")
ABSENT = 0.7  # how probable it is that a conjunction does not name a variable
SPARSE_TERMS, SPARSE_PARITY, N_TERMS, TERM, N_VOTERS, MOST_WEIGHT, N_CENTRES = 4, 2, 3, 2, 3, 3, 4
Listed = tuple[NDArray[np.int8], FloatArray, Sequence[tuple[int, ...]] | None]


@cache
def cube(d: int) -> NDArray[np.int8]:
    """Return all points of {0, 1}^d, `[2^d, d]`; the first digit changes slowest."""
    return np.array(list(product((0, 1), repeat=d)), dtype=np.int8)


def place(point: Sequence[int] | NDArray[np.int8]) -> int:
    """Return where a point stands in the cube."""
    return int("".join(map(str, np.asarray(point).tolist())), 2)


def satisfied(literals: NDArray[np.int8], d: int) -> NDArray[np.int8]:
    """Return the tables of conjunctions: 1 where every literal holds.

    Args:
        literals: Of each conjunction 1, -1 or 0 for each variable: it must be on, off, or does not matter, `[n, d]`.
        d: Variables.

    Returns:
        `[n, 2^d]`.
    """
    signs = 2 * cube(d).astype(np.int16) - 1
    return (literals.astype(np.int16) @ signs.T == np.abs(literals).sum(axis=1, keepdims=True)).astype(np.int8)


def conjunction_teaching(literals: Sequence[int] | NDArray[np.int8], *, monotone: bool = False) -> tuple[int, ...]:
    """Return the points that teach a conjunction of k literals: k + 1 of a monotone one, k + 2 of any.

    First a point where the literals hold and everything else is off (in any conjunction also the one where everything
    else is on, so that nothing else can be a literal), then the first point with each literal broken in turn. Where
    every variable is a literal there is no everything else, and k + 1 teach any.
    """
    literals = np.asarray(literals)
    used = np.flatnonzero(literals)
    low = np.where(literals > 0, 1, 0)
    points = [low]
    if not monotone and len(used) < len(literals):
        points.append(np.where(literals == 0, 1, low))
    for i in used:
        broken = low.copy()
        broken[i] = 1 - broken[i]
        points.append(broken)
    return tuple(place(p) for p in points)


def dnf_teaching(terms: NDArray[np.int8], d: int) -> tuple[int, ...]:
    """Return the points that teach the terms of a disjunction one after the other, each where it alone holds.

    Of each term two points at which nothing else holds, as different as they can be, and the first with each literal
    broken in turn, where that makes it false. A term that never holds alone has no points.

    Args:
        terms: Literals of each, as `satisfied` takes them, `[n_terms, d]`.
        d: Variables.
    """
    holds = satisfied(terms, d)
    n_true, found = holds.sum(axis=0), list[int]()
    for term, own in zip(terms, holds, strict=True):
        alone = np.flatnonzero(own & (n_true == 1))
        if not len(alone):
            continue
        low = cube(d)[alone[0]]
        found += [int(alone[0]), int(alone[(cube(d)[alone] != low).sum(axis=1).argmax()])]
        for i in np.flatnonzero(term):
            flips = [place(np.where(np.arange(d) == i, 1 - cube(d)[a], cube(d)[a])) for a in alone]
            found += [flip for flip in flips if not n_true[flip]][:1]
    return tuple(dict.fromkeys(found))


def _conjunctions(d: int, *, monotone: bool) -> tuple[NDArray[np.int8], FloatArray]:
    signs = (0, 1) if monotone else (0, 1, -1)
    literals = np.array([row for row in product(signs, repeat=d) if any(row)], dtype=np.int8)
    n_used = np.abs(literals).sum(axis=1)
    return literals, ABSENT ** (d - n_used) * ((1 - ABSENT) / (len(signs) - 1)) ** n_used


def _of_literals(
    literals: NDArray[np.int8], prior: FloatArray, *, monotone: bool = False, flip: bool = False
) -> Listed:
    """Return conjunctions, or with `flip` the disjunctions that are false where these are true."""
    tables = satisfied(literals, literals.shape[1])
    return (1 - tables if flip else tables), prior, [conjunction_teaching(row, monotone=monotone) for row in literals]


def _signed(d: int, size: int) -> NDArray[np.int8]:
    """Return all ways in which `size` of `d` variables have a sign, `[n, d]`."""
    rows = []
    for variables in combinations(range(d), size):
        for signs in product((1, -1), repeat=size):
            rows.append(np.zeros(d, dtype=np.int8))
            rows[-1][list(variables)] = signs
    return np.array(rows)


def _even(tables: NDArray[Any]) -> Listed:
    return tables.astype(np.int8), np.ones(len(tables)), None


def _dnf(d: int) -> Listed:
    terms = satisfied(_signed(d, TERM), d)
    chosen = np.array(list(combinations(range(len(terms)), N_TERMS)))
    return _even(terms[chosen[:, 0]] | terms[chosen[:, 1]] | terms[chosen[:, 2]])


def _dnf_terms(d: int, number: int) -> NDArray[np.int8]:
    """Return the terms of the function that stands at a place in the list of `_dnf`."""
    literals = _signed(d, TERM)
    return literals[list(next(islice(combinations(range(len(literals)), N_TERMS), number, None)))]


def _threshold(d: int) -> Listed:
    sums = _signed(d, N_VOTERS).astype(np.int16) @ (2 * cube(d).astype(np.int16) - 1).T
    return _even(np.concatenate([sums >= least for least in range(2 - N_VOTERS, N_VOTERS + 1, 2)]))


def _halfspace(d: int) -> Listed:
    weights = np.array(list(product(range(-MOST_WEIGHT, MOST_WEIGHT + 1), repeat=d)), dtype=np.int16)
    return _even(weights @ (2 * cube(d).astype(np.int16) - 1).T > 0)


def _majority(d: int) -> Listed:
    return _even(cube(d).astype(np.int16) @ (2 * cube(d).astype(np.int16) - 1).T > 0)


def _parity(d: int) -> Listed:
    sums = cube(d).astype(np.int16) @ cube(d).astype(np.int16).T
    return (sums % 2).astype(np.int8), np.ones(2**d), [tuple(2**i for i in range(d))] * 2**d


def _sparse_parity(d: int) -> Listed:
    used = np.array([row for row in cube(d) if row.sum() == SPARSE_PARITY], dtype=np.int16)
    return _even((used @ cube(d).astype(np.int16).T) % 2)


def centres(d: int) -> list[int]:
    """Return the points of which the nearest says a point's label in the class nearest-neighbour; always the same."""
    order = generator(0, "centres", d).permutation(2**d)
    return [int(i) for i in order[:N_CENTRES]]


def _nearest(d: int) -> Listed:
    some = centres(d)
    far = (cube(d)[:, None] != cube(d)[some]).sum(axis=2)  # [2^d, n_centres]
    tables = np.array(list(product((0, 1), repeat=N_CENTRES)), dtype=np.int8)[:, far.argmin(axis=1)]
    return tables, np.ones(len(tables)), [tuple(some)] * len(tables)


def _conjunction(d: int, *, monotone: bool = False, flip: bool = False) -> Listed:
    return _of_literals(*_conjunctions(d, monotone=monotone), monotone=monotone, flip=flip)


def _sparse_disjunction(d: int) -> Listed:
    literals = _signed(d, SPARSE_TERMS)
    return _of_literals(literals, np.ones(len(literals)), flip=True)


_KNOWN: Mapping[str, tuple[Callable[[int], Listed], int, int]] = {  # how it is listed, least and most d
    "conjunction": (_conjunction, LEAST_D, MOST_D),
    "monotone-conjunction": (lambda d: _conjunction(d, monotone=True), LEAST_D, MOST_D),
    "disjunction": (lambda d: _conjunction(d, flip=True), LEAST_D, MOST_D),
    "sparse-disjunction": (_sparse_disjunction, SPARSE_TERMS + 1, MOST_D),
    "dnf": (_dnf, 4, 7),
    "sparse-threshold": (_threshold, LEAST_D, MOST_D),
    "halfspace": (_halfspace, LEAST_D, 6),
    "majority": (_majority, LEAST_D, MOST_D),
    "parity": (_parity, LEAST_D, MOST_D),
    "sparse-parity": (_sparse_parity, LEAST_D, MOST_D),
    "nearest-neighbour": (_nearest, LEAST_D, MOST_D),
}
BOOLEAN_CLASSES = tuple(_KNOWN)


def check_boolean(name: str, d: int) -> None:
    """Raise a UserError unless there is such a class, and its functions of `d` digits are few enough to list."""
    if name not in _KNOWN:
        raise UserError(f"of must be one of {', '.join(_KNOWN)}; got '{name}'.")
    _, least, most = _KNOWN[name]
    if not least <= d <= most:
        raise UserError(
            f"d must be in {least}..{most} for {name}, whose functions are listed; got {d}. Take another d."
        )


@cache
def boolean_class(name: str, d: int) -> FunctionClass:
    """Return a class of functions from d digits to yes or no.

    conjunction: every named variable has the named value (each variable absent 0.7, on 0.15, off 0.15);
    monotone-conjunction: every named variable is on (absent 0.7); disjunction: some named variable has the named value,
    as probable as the conjunction that it denies; sparse-disjunction: of four variables; dnf: one of three terms of two
    literals; sparse-threshold: of three signed variables one, two or all hold; halfspace: sum w_i x_i > 0 with whole
    w_i from -3 to 3 and x_i = 1 or -1; majority: more of some variables are on than off; parity: an odd number of some
    variables are on; sparse-parity: of two variables; nearest-neighbour: the nearest of four points, always the same
    ones, says it. Those without a prior here are equally probable. Functions that say the same everywhere to all inputs
    are left out; what differs in its description alone is one function.

    Of conjunctions, disjunctions, parities and nearest-neighbour the teaching points are known, and of dnf those of its
    terms, with more where another function is possible still; no other points of their number tell more, as after them
    no other function is possible.

    Raises:
        UserError: There is no such class, or `d` is not in its range.
    """
    check_boolean(name, d)
    listed, _, _ = _KNOWN[name]
    found, chances, taught = listed(d)
    tables, prior, first = merged(found, chances)

    @cache
    def teaching(function: int) -> tuple[int, ...] | None:
        if name == "dnf":
            return completed(tables, function, dnf_teaching(_dnf_terms(d, int(first[function])), d))
        return None if taught is None else taught[first[function]]

    return FunctionClass(
        name=f"{name} of {d} digits",
        inputs=tuple(" ".join(map(str, point)) for point in cube(d).tolist()),
        labels=LABELS,
        tables=tables,
        prior=prior,
        instruction="Each text is a row of digits. Say yes or no by the rule that the examples follow.",
        teaching=teaching,
    )
