"""Who is told what a run is doing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Board = Sequence[Mapping[str, Any]]  # rows of a leaderboard


class Progress(Protocol):
    """Told what a run is doing."""

    def begin(self, recipe: str, total: int) -> None:
        """A recipe starts on `total` predictions."""
        ...

    def advance(self, n: int) -> None:
        """`n` more predictions are done."""
        ...

    def say(self, text: str) -> None:
        """Something that the user should know, once."""
        ...

    def standing(self, board: Board, left: str) -> None:
        """The race so far, best first, and what is left of the budget, as words that stand alone ("" without one)."""
        ...


class Silence:
    """Progress that nobody watches."""

    def begin(self, recipe: str, total: int) -> None:
        """Say nothing."""

    def advance(self, n: int) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def standing(self, board: Board, left: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class SideProgress(Silence):
    """Work for a selector or steerer: no prediction, but the budget is looked at, and what is said is heard."""

    heard: Progress
    tell: Callable[[int], None] = lambda n: None

    def advance(self, n: int) -> None:
        """Tell that the run goes on."""
        self.tell(0)

    def say(self, text: str) -> None:
        """Say what the user should know."""
        self.heard.say(text)


@dataclass(frozen=True)
class Watched:
    """Work that ends where a budget does: the budget is looked at whenever the work goes on."""

    heard: Progress
    check: Callable[[], None]

    def begin(self, recipe: str, total: int) -> None:
        """Tell it."""
        self.heard.begin(recipe, total)

    def advance(self, n: int) -> None:
        """Tell it, and look at the budget."""
        self.heard.advance(n)
        self.check()

    def say(self, text: str) -> None:
        """Say it."""
        self.heard.say(text)

    def standing(self, board: Board, left: str) -> None:
        """Tell it."""
        self.heard.standing(board, left)
