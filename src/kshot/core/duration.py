"""Times as people write them."""

from collections.abc import Mapping
from math import inf

from kshot.core.errors import UserError

FACTORS = {"s": 1, "m": 60, "h": 3600}


def read_number(text: str, units: Mapping[str, float]) -> float | None:
    """Return a positive number with one of the units (letters after it), or None if it is something else."""
    number = text.rstrip("kmsh")
    factor = units.get(text[len(number) :])
    try:
        value = float(number) * (factor or 0)
    except ValueError:
        return None
    return value if 0 < value < inf else None


def parse_seconds(text: str) -> float:
    """Read a duration such as "90s", "10m" or "2h" as seconds.

    Raises:
        UserError: Something else.
    """
    value = read_number(text, FACTORS)
    if value is None:
        raise UserError(f"--budget must be a time such as 90s, 10m or 2h; got '{text}'.")
    return value


def in_words(seconds: float) -> str:
    """Return a duration for people: "40 s", "12 min", "1.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
