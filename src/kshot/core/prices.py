"""What a service's tokens cost, as people write it, and what was paid in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from kshot.core.budget import parse_budget
from kshot.core.errors import UserError

NAMES = ("in", "cached", "out")


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens.

    Attributes:
        input: Of what is sent.
        cached: Of those of them that the service has in its cache.
        output: Of what it writes.
    """

    input: float
    cached: float
    output: float

    def of(self, input_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        """Return what tokens cost in US dollars; those that are cached are among those of the input."""
        fresh = max(0.0, input_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * self.cached + output_tokens * self.output) / 1e6


def parse_prices(text: str | None) -> Prices | None:
    """Read "in=0.15,out=0.6,cached=0.075", US dollars for a million tokens; by default cached ones cost as others.

    Raises:
        UserError: Something else.
    """
    if text is None:
        return None
    pairs = [piece.partition("=") for piece in text.split(",")]
    values = {name.strip(): _price(value) for name, _, value in pairs}
    wrong = len(values) < len(pairs) or None in values.values() or not {"in", "out"} <= values.keys() <= set(NAMES)
    if wrong:
        raise UserError(
            f"--prices must be US dollars for a million tokens as in=0.15,out=0.6 or in=0.15,out=0.6,cached=0.075; got "
            f"'{text}'. Write them as the service's page of prices has them."
        )
    known = {name: value for name, value in values.items() if value is not None}
    return Prices(known["in"], known.get("cached", known["in"]), known["out"])


def _price(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) and value >= 0 else None


def in_usd(money: float) -> str:
    """Return a sum for people: "12.40 usd", "0.0031 usd"."""
    if money >= 1 or money <= 0:
        return f"{money:.2f} usd"
    return f"{float(f'{money:.2g}'):.10f}".rstrip("0") + " usd"


def paid_in_words(paid: Mapping[str, Any]) -> str:
    """Return what `Ledger.record` says as a sentence."""
    calls = "1 call" if paid["calls"] == 1 else f"{paid['calls']:,} calls"
    cached = f" ({paid['cached_tokens']:,} of them cached)" if paid["cached_tokens"] else ""
    sent = f"{paid['input_tokens']:,} tokens sent{cached}, {paid['output_tokens']:,} written"
    money = "" if paid["usd"] is None else f", {in_usd(paid['usd'])}"
    return f"{calls}, {sent}{money}"


def paid_together(paid: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what several have paid (`Ledger.record`) as one; None without any, `usd` None where one's is not known.

    Example:
        >>> one = {"calls": 1, "input_tokens": 5, "cached_tokens": 0, "output_tokens": 2, "usd": None}
        >>> paid_together([one, one])
        {'calls': 2, 'input_tokens': 10, 'cached_tokens': 0, 'output_tokens': 4, 'usd': None}
    """
    if not paid:
        return None
    return {
        name: None if any(one[name] is None for one in paid) else sum(one[name] for one in paid) for name in paid[0]
    }


def check_priced(budget: str | None, prices: str | None) -> None:
    """Raise a UserError where a budget of money comes without what tokens cost."""
    if prices is None and parse_budget(budget).money < inf:
        raise UserError(
            f"--budget in usd must come with --prices, as no service tells what its tokens cost; got '{budget}' alone. "
            "Give --prices in=0.15,out=0.6 with those of your model, for a million tokens."
        )
