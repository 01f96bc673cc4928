"""What was spent, and when it is too much."""

import time
from dataclasses import dataclass
from threading import Lock
from typing import Self

from kshot.core.budget import Budget


class BudgetSpentError(Exception):
    """The budget is spent; raised between packs, when what was scored is stored."""


@dataclass(frozen=True)
class Cost:
    """What a model was made to do: requests scored anew, taken from the store, and the time and tokens of both.

    `seconds` and `tokens` count reused requests with what they took when they were scored, so that a resumed run
    reports the cost of an undisturbed one. A token that is run forward and backward counts as three.
    """

    scored: int = 0
    reused: int = 0
    seconds: float = 0.0
    tokens: float = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.scored + other.scored,
            self.reused + other.reused,
            self.seconds + other.seconds,
            self.tokens + other.tokens,
        )


class Ledger:
    """Adds up costs, from any thread, and says when a budget is spent.

    What a piece of work takes is counted by a part: `part = ledger.part()`, the work adds to the part, and `part.cost`
    is what it took; the ledger has it too.

    Args:
        budget: The most seconds and tokens; no limit by default.
        began: When the seconds of the budget began, by `time.monotonic`; now by default.

    Attributes:
        reserve: Seconds and tokens of the budget that are kept for later.
        is_spent: Whether `check` has found the budget spent.
    """

    def __init__(self, budget: Budget | None = None, *, began: float | None = None):
        self.budget = budget or Budget()
        self.reserve = (0.0, 0.0)
        self.is_spent = False
        self._began = time.monotonic() if began is None else began
        self._cost = Cost()
        self._parent: Ledger | None = None
        self._lock = Lock()

    def part(self) -> Self:
        """Return a ledger without a budget of its own, whose additions also go to this one."""
        part = type(self)()
        part._parent, part._lock = self, self._lock
        return part

    def add(self, cost: Cost) -> None:
        """Add what something took, here and in all ledgers that this one is a part of."""
        with self._lock:  # one for a ledger and all its parts
            ledger: Ledger | None = self
            while ledger is not None:
                ledger._cost += cost
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
