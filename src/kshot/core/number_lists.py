"""Lists of numbers as people write them: "1, 2.5, null", "[1, 2]", "1 2 3"."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from math import isfinite, isnan, nan

from kshot.core.errors import UserError
from kshot.core.types import Task

_GAPS = frozenset({"null", "none", "nan", "na", "n/a", "-", "?", ""})
_MOST_DECIMALS = 12


@dataclass(frozen=True)
class NumberList:
    """A list of numbers as it was written.

    Attributes:
        values: NaN where there is a gap.
        decimals: The most places after the point.
        brackets: Whether it was a list of JSON.
        between: What stood between two numbers.
    """

    values: tuple[float, ...]
    decimals: int
    brackets: bool
    between: str

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
    values, decimals = list[float](), 0
    for part in parts:
        if part.casefold() in _GAPS:
            values.append(nan)
            continue
        try:
            number = Decimal(part)
        except InvalidOperation:
            return None
        if not isfinite(float(number)):
            return None
        values.append(float(number))
        decimals = max(decimals, -int(number.as_tuple().exponent))
    between = f"{mark} " if mark in (",", ";") and f"{mark} " in inside else mark or " "
    return NumberList(tuple(values), min(decimals, _MOST_DECIMALS), brackets, between) if values else None


def past_of(text: str, row: str) -> NumberList:
    """Return the window of a row.

    Raises:
        UserError: It is no list of numbers, or all of it is gaps.
    """
    numbers = number_list(text)
    if numbers is None or not numbers.known:
        raise UserError(
            f"The input of '{row}' must be a series of numbers; got {text[:60]!r}. Write numbers alone, as in '1.5, 2, "
            "null, 3' or '[1.5, 2]'; null is a gap."
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
            f"The output of '{row}' must be numbers without gaps; got {text[:60]!r}. Write numbers alone, as in '1.5, "
            "2' or '[1.5, 2]'."
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
