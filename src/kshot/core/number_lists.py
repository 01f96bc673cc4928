"""Lists of numbers as people write them: "1, 2.5, null", "[1, 2]", "1 2 3"."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from math import inf, isnan, log, nan

import numpy as np

from kshot.core.errors import UserError
from kshot.core.types import Task

_GAPS = frozenset({"null", "none", "nan", "na", "n/a", "-", "?", ""})
_MOST_DECIMALS = 12
MOST = 1e100  # what is larger is no number of a series
_MOST_PLACES = 100


@dataclass(frozen=True)
class NumberList:
    """A list of numbers as it was written.

    Attributes:
        values: NaN where there is a gap.
        decimals: The most places after the point that others are written with; 12 at most.
        brackets: Whether it was a list of JSON.
        between: What stood between two numbers.
        exact: The numbers without gaps, as they were written.
    """

    values: tuple[float, ...]
    decimals: int
    brackets: bool
    between: str
    exact: tuple[Decimal, ...] = field(default=(), repr=False, compare=False)

    @property
    def places(self) -> list[int]:
        """How many places after the point each number that is no gap was written with."""
        return [_places(number) for number in self.exact]

    @property
    def known(self) -> list[float]:
        """The values without gaps."""
        return [value for value in self.values if not isnan(value)]

    def written(self, values: Sequence[float], *, decimals: int) -> str:
        """Return values in the same form, with so many places after the point."""
        text = self.between.join(f"{value:.{decimals}f}" for value in values)
        return f"[{text}]" if self.brackets else text


@lru_cache(maxsize=8192)
def number_list(text: str) -> NumberList | None:
    """Return the list of numbers that a text is, in brackets or not; None where something else is in it.

    Example:
        >>> number_list("[1, null, 2.50]")
        NumberList(values=(1.0, nan, 2.5), decimals=2, brackets=True, between=', ')
        >>> number_list("about 3")
    """
    inside = text.strip()
    brackets = inside.startswith("[") and inside.endswith("]")
    inside = inside[1:-1].strip() if brackets else inside
    mark = next((sign for sign in ",;\n" if sign in inside), None)
    parts = [part.strip() for part in inside.split(mark)] if inside else []
    values, exact = list[float](), list[Decimal]()
    for part in parts:
        if part.casefold() in _GAPS:
            values.append(nan)
            continue
        try:
            number = Decimal(part)
        except InvalidOperation:
            return None
        if not number.is_finite() or number.copy_abs() > MOST or _places(number) > _MOST_PLACES:
            return None
        values.append(float(number))
        exact.append(number)
    between = f"{mark} " if mark in (",", ";") and f"{mark} " in inside else mark or " "
    decimals = min(_MOST_DECIMALS, max((_places(number) for number in exact), default=0))
    return NumberList(tuple(values), decimals, brackets, between, tuple(exact)) if values else None


def _places(number: Decimal) -> int:
    return max(0, -int(number.as_tuple().exponent))


def log_share(which: int, seen: Counter[int], log_prior: float) -> float:
    """Return the log of (n + prior) / (N + 1), where n of N that were seen are this one.

    Over all that there can be these shares sum to 1 where the priors do.
    """
    log_n = log(seen[which]) if seen[which] else -inf
    return float(np.logaddexp(log_n, log_prior)) - log(seen.total() + 1)


def log_chance_of_places(places: int, past: NumberList, seen: Counter[int]) -> float:
    """Return the log-probability that a number after a window is written with so many places after the point.

    It is the share of those that were `seen` in outputs; its prior is the share in the window, and that one's 2^-(1 +
    places). So the probabilities of 0, 1, 2, … places sum to 1.
    """
    return log_share(places, seen, log_share(places, Counter(past.places), -(places + 1) * log(2)))


def past_of(text: str, row: str) -> NumberList:
    """Return the window of a row.

    Raises:
        UserError: It is no list of numbers, or all of it is gaps.
    """
    numbers = number_list(text)
    if numbers is None or not numbers.known:
        raise UserError(
            f"The input of '{row}' must be a series of numbers; got {text[:60]!r}. Write numbers alone, none beyond "
            "1e100, as in '1.5, 2, null, 3' or '[1.5, 2]'; null is a gap."
        )
    return numbers


def future_of(text: str, row: str) -> NumberList:
    """Return the numbers that follow a window.

    Raises:
        UserError: They are none, or have gaps.
    """
    numbers = number_list(text)
    if numbers is None or len(numbers.known) < len(numbers.values):
        raise UserError(
            f"The output of '{row}' must be numbers without gaps; got {text[:60]!r}. Write numbers alone, none beyond "
            "1e100, as in '1.5, 2' or '[1.5, 2]'."
        )
    return numbers


def broken_series(task: Task) -> str | None:
    """Return which row of a task does not lead from numbers to numbers, in words; None: all do."""
    try:
        for e in (*task.train, *task.test):
            past_of(e.input, e.id)
            future_of(e.output, e.id)
    except UserError as error:
        return str(error)
    return None
