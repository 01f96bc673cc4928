"""Who is told what a run is doing."""

from typing import Protocol


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


class Silence:
    """Progress that nobody watches."""

    def begin(self, recipe: str, total: int) -> None:
        """Say nothing."""

    def advance(self, n: int) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""
