"""What a run may take: a time or a number of tokens, as people write them."""

from dataclasses import dataclass
from math import inf

from kshot.core.duration import FACTORS, read_number
from kshot.core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """The most seconds and tokens; tokens are counted as `Cost` counts them."""

    seconds: float = inf
    tokens: float = inf


def parse_budget(text: str | None) -> Budget:
    """Read "90s", "10m", "2h" or "500k-tokens"; None is no limit.

    Raises:
        UserError: Something else.
    """
    if text is None:
        return Budget()
    number, of_tokens, rest = text.partition("-tokens")
    units = {"": 1, "k": 1e3, "m": 1e6} if of_tokens else FACTORS
    value = None if rest else read_number(number, units)
    if value is None:
        raise UserError(f"--budget must be a time such as 90s, 10m or 2h, or tokens as 500k-tokens; got '{text}'.")
    return Budget(tokens=value) if of_tokens else Budget(seconds=value)
