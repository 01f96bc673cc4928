"""What is said to a model: pieces of text with roles, before anybody knows how it is written for a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kshot.core.types import Example, Question

ScriptRole = Literal["instruction", "note", "schema", "context", "question", "reason", "answer", "feedback"]


@dataclass(frozen=True)
class Piece:
    """Something that is said; its text has no layout of its own."""

    role: ScriptRole
    text: str


@dataclass(frozen=True)
class Script:
    """What is said, in reading order, up to where the last answer begins (or ends, in a text to be learnt).

    Attributes:
        pieces: Instruction and notes first; then for each demonstration context, question, perhaps a reason, and
            answer; then the context and question that are asked.
        given: What a question is called where the layout names it, such as "Text".
        wanted: What an answer is called, such as "Label".
    """

    pieces: tuple[Piece, ...]
    given: str = "Input"
    wanted: str = "Output"


def asked(question: Question | Example) -> list[Piece]:
    """Return the pieces of a question: its context, if it has one, and what is asked."""
    context = [Piece("context", question.context)] if question.context else []
    return [*context, Piece("question", question.input)]


def shown(examples: Sequence[Example]) -> list[Piece]:
    """Return the pieces of demonstrations, in their order."""
    return [piece for e in examples for piece in (*asked(e), Piece("answer", e.output))]
