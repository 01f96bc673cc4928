"""What was spent, and when it is too much."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Self

from kshot.core.budget import Budget
from kshot.core.prices import Prices


class BudgetSpentError(Exception):
    """The budget is spent; raised between packs and before calls, when what was scored is stored."""


@dataclass(frozen=True)
class Cost:
    """What a model was made to do: requests scored anew, taken from the store, and the time and tokens of both.

    `seconds` and `tokens` count reused requests with what they took when they were scored, so that a resumed run
    reports the cost of an undisturbed one. A token that is run forward and backward counts as three.

    `calls` and the tokens of calls are what a service was asked and says to have read and written, each time that it
    was: an answer that is taken from the store adds nothing to them. `cached_tokens` are those of `input_tokens` that
    the service had in its cache.
    """

    scored: int = 0
    reused: int = 0
    seconds: float = 0.0
    tokens: float = 0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.scored + other.scored,
            self.reused + other.reused,
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
        )

    @property
    def of_calls(self) -> "Cost":
        """The calls alone, with their tokens: what is paid for."""
        return Cost(
            calls=self.calls,
            input_tokens=self.input_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
        )

    def money(self, prices: Prices) -> float:
        """Return what the calls cost, in US dollars."""
        return prices.of(self.input_tokens, self.cached_tokens, self.output_tokens)


class Ledger:
    """Adds up costs, from any thread, and says when a budget is spent.

    What a piece of work takes is counted by a part: `part = ledger.part()`, the work adds to the part, and `part.cost`
    is what it took; the ledger has it too.

    Args:
        budget: The most seconds, tokens and money; no limit by default.
        began: When the seconds of the budget began, by `time.monotonic`; now by default.
        prices: Of the services that are called; without them nothing is known of money.
        before: What was paid for the same work in processes before this one.

    Attributes:
        reserve: Seconds and tokens of the budget that are kept for later.
        reserved_money: US dollars that are.
        is_spent: Whether the budget was found spent.
        is_apart: Whether it passes no seconds and tokens on.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        began: float | None = None,
        prices: Prices | None = None,
        before: Cost | None = None,
    ):
        self.budget = budget or Budget()
        self.prices = prices
        self.reserve, self.reserved_money = (0.0, 0.0), 0.0
        self.is_spent = False
        self._began = time.monotonic() if began is None else began
        self._before = (before or Cost()).of_calls
        self._cost = Cost()
        self._parent: Ledger | None = None
        self._overspends, self.is_apart = False, False
        self._lock = Lock()

    def part(self, *, overspends: bool = False) -> Self:
        """Return a ledger without a budget of its own, whose additions also go to this one.

        Args:
            overspends: Its calls are made even where no money is left, as those of a last fit, for which some was kept.
        """
        part = type(self)()
        part._parent, part._lock, part._overspends = self, self._lock, overspends
        return part

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Pass no seconds and tokens on to what this is a part of: what is done meanwhile was counted there before."""
        self.is_apart = True
        try:
            yield
        finally:
            self.is_apart = False

    def add(self, cost: Cost) -> None:
        """Add what something took, here and in all ledgers that this one is a part of."""
        with self._lock:  # one for a ledger and all its parts
            ledger: Ledger | None = self
            while ledger is not None:
                ledger._cost += cost
                if ledger.is_apart:
                    cost = replace(cost, seconds=0.0, tokens=0)
                ledger = ledger._parent

    @property
    def cost(self) -> Cost:
        """What was added so far."""
        return self._cost

    @property
    def spent(self) -> tuple[float, float]:
        """Seconds since it began, whatever they were used for, and tokens."""
        return time.monotonic() - self._began, self._cost.tokens

    @property
    def left(self) -> tuple[float, float]:
        """Seconds and tokens of the budget that are left, the reserve included; below 0 where it is overspent."""
        seconds, tokens = self.spent
        return self.budget.seconds - seconds, self.budget.tokens - tokens

    def check(self) -> None:
        """Do nothing while the budget, without its reserve, lasts.

        Raises:
            BudgetSpentError: It is spent.
        """
        limits = self.budget.seconds - self.reserve[0], self.budget.tokens - self.reserve[1]
        if any(value > limit for value, limit in zip(self.spent, limits, strict=True)):
            self.is_spent = True
            raise BudgetSpentError

    @property
    def paid(self) -> Cost:
        """The calls so far and their tokens, with those of processes before this one."""
        return self._before + self._cost.of_calls

    @property
    def money(self) -> float | None:
        """What was paid so far, in US dollars; None where no prices are known."""
        return None if self.prices is None else self.paid.money(self.prices)

    def record(self) -> dict[str, Any] | None:
        """Return as JSON what was paid so far: calls, tokens, and `usd` where prices are known; None without calls."""
        paid = self.paid
        if not paid.calls:
            return None
        names = ("calls", "input_tokens", "cached_tokens", "output_tokens")
        return {name: getattr(paid, name) for name in names} | {"usd": self.money}

    def check_call(self, under_way: Cost | None = None) -> None:
        """Do nothing while a service may be called: whoever calls one asks this first, and adds the call when it ends.

        What is in the store needs no call, so that a run whose money is spent still comes to the same end as before.
        Calls that are under way when the money ends are let come to their end, and are paid.

        Args:
            under_way: What calls took that are answered and not added yet, as those of a piece of work that makes many.

        Raises:
            BudgetSpentError: The money of this ledger, or of one that it is a part of, is spent.
        """
        ledger: Ledger | None = self
        while ledger is not None and not ledger._overspends:
            money = None if ledger.prices is None else (ledger.paid + (under_way or Cost())).money(ledger.prices)
            if money is not None and money >= ledger.budget.money - ledger.reserved_money:
                ledger.is_spent = True
                raise BudgetSpentError
            ledger = ledger._parent
