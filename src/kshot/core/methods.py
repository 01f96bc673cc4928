"""The protocols between the rooms: what language models, selectors, composers, baselines and learners must offer."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kshot.core.types import (
    Example,
    Prompt,
    Task,
)


class Composer(Protocol):
    """Turns instruction, demonstrations and query into a prompt."""

    @property
    def record(self) -> Mapping[str, str]:
        """What it is, for the record: equal records compose equal prompts."""
        ...

    @property
    def terminator(self) -> str:
        """The text that ends an answer."""
        ...

    def compose(self, task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
        """Return the prompt with all demonstrations in the order given, the last one next to the query."""
        ...

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`, with the terminator."""
        ...
