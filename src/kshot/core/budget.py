"""What a run may take: a time, a number of tokens or a sum of money, as people write them."""

from dataclasses import dataclass
from math import inf

from kshot.core.duration import FACTORS, read_number
from kshot.core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """The most seconds, tokens and US dollars; tokens are counted as `Cost` counts them."""

    seconds: float = inf
    tokens: float = inf
    money: float = inf


def parse_budget(text: str | None) -> Budget:
    """Read "90s", "10m", "2h", "500k-tokens" or "2usd"; None is no limit.

    Raises:
        UserError: Something else.
    """
    if text is None:
        return Budget()
    if text.endswith("usd"):
        value = read_number(text.removesuffix("usd").rstrip(" "), {"": 1})
    else:
        number, of_tokens, rest = text.partition("-tokens")
        value = None if rest else read_number(number, {"": 1, "k": 1e3, "m": 1e6} if of_tokens else FACTORS)
    if value is None:
        raise UserError(
            f"--budget must be a time such as 90s, 10m or 2h, tokens as 500k-tokens, or money as 2usd; got '{text}'."
        )
    if text.endswith("usd"):
        return Budget(money=value)
    return Budget(tokens=value) if text.endswith("-tokens") else Budget(seconds=value)
