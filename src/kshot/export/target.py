"""What an export is: files for other software, and how that software reads them again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kshot.core.errors import UserError
from kshot.core.types import FloatArray, Question
from kshot.export.handover import Handover

Said = str | Sequence[dict[str, str]]
"""What a model is asked: a text, or the messages of a chat."""


class NotReadError(UserError):
    """The target cannot read its files here: they are written, and their difference is not known."""


@dataclass(frozen=True)
class Reader:
    """How a target reads an export.

    Attributes:
        name: What reads, with its version.
        prompt: Returns what the files make of a question.
        log_probs: Returns the log-probability in nats of answers after that, `[n_answers]`.
        answer: Returns how an answer is written after it.
    """

    name: str
    prompt: Callable[[Question], Said]
    log_probs: Callable[[Any, Sequence[str]], FloatArray]
    answer: Callable[[str], str]


class Target(Protocol):
    """Other software that an adapted model is written for."""

    @property
    def name(self) -> str:
        """What `--to` calls it."""
        ...

    @property
    def weights(self) -> bool:
        """Whether it takes trained weights beside the prompt."""
        ...

    def write(self, given: Handover, folder: Path) -> None:
        """Write the files into a folder that is being made.

        Raises:
            UserError: The target cannot express it.
        """
        ...

    def usage(self, given: Handover) -> str:
        """Return how the files are used, in Markdown."""
        ...

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return what reads the files as the target's users will.

        Raises:
            NotReadError: It cannot be had here.
        """
        ...


def filled(text: str, question: Question) -> str:
    """Return a text with a question in place of its last "{input}", and its passage in place of the last "{context}".

    The passage can stand before the question or after it. All other braces are those of the examples.
    """
    said = {"{input}": question.input} | ({} if question.context is None else {"{context}": question.context})
    places = sorted(((text.rfind(place), place) for place in said), reverse=True)
    for at, place in places:  # from the end, so that what is put in moves none of them
        if at >= 0:
            text = text[:at] + said[place] + text[at + len(place) :]
    return text
