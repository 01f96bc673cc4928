"""What is said to a model: pieces of text with roles, before anybody knows how it is written for a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from kshot.core.control_tokens import Speller
from kshot.core.errors import UserError
from kshot.core.types import Example, Kind, Question, Task

ScriptRole = Literal["instruction", "note", "schema", "context", "question", "reason", "answer", "feedback"]
OPENING: tuple[ScriptRole, ...] = ("instruction", "note", "schema")  # what can stand before the first question
# What question and answer are called, chosen by the bits on training rows with the 270M model (JOURNAL.md, 2026-11-22)
WORDS: Mapping[Kind, tuple[str, str]] = {
    "classification": ("Text", "Label"),
    "multiple_choice": ("Question", "Answer"),
    "qa": ("Question", "Answer"),
    "math": ("Question", "Answer"),
    "generation": ("Input", "Output"),
    "parsing": ("Input", "Output"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that is said; its text has no layout of its own.

    Attributes:
        example: The id of the example that it comes from, for messages about it.
    """

    role: ScriptRole
    text: str
    example: str = field(default="", compare=False)

    def spelled_out(self, spell: Speller) -> "Piece":
        """Return the piece with marks in the control tokens that its text spells; itself where there are none."""
        text = spell(self.text)
        return self if text is self.text else replace(self, text=text)


@dataclass(frozen=True)
class Script:
    """What is said, in reading order, up to where the last answer begins (or ends, in a text to be learnt).

    Attributes:
        pieces: Instruction and notes first; then for each demonstration context, question, perhaps a reason, and
            answer; then the context and question that are asked.
        given: What a question is called where the layout names it, such as "Text"; empty if it has no name.
        wanted: What an answer is called, such as "Label".
    """

    pieces: tuple[Piece, ...]
    given: str = "Input"
    wanted: str = "Output"

    def __post_init__(self):
        last = self.pieces[-1].role if self.pieces else "nothing"
        if last not in ("question", "reason", "answer"):
            raise UserError(
                f"A script must end with a question, a reason or an answer; it ends with {last}. Change the composer."
            )
        is_asked = False
        for piece in self.pieces:
            if piece.role == "question":
                is_asked = True
            elif piece.role == "answer":
                self._check(is_asked, piece)
                is_asked = False
        self._check(is_asked or last == "answer", self.pieces[-1])

    def _check(self, is_asked: bool, piece: Piece) -> None:
        if not is_asked:
            raise UserError(
                f"Each reason and answer of a script must follow a question; '{piece.text}' follows none. Change the "
                "composer."
            )

    def spelled_out(self, spell: Speller) -> "Script":
        """Return the script with marks in the control tokens that its texts spell; see `kshot.core.control_tokens`."""
        pieces = tuple(piece.spelled_out(spell) for piece in self.pieces)
        given, wanted = (spell(name) for name in (self.given, self.wanted))
        is_same = all(a is b for a, b in zip(pieces, self.pieces, strict=True)) and given is self.given
        return self if is_same and wanted is self.wanted else Script(pieces, given, wanted)

    def noted(self, notes: Sequence[str]) -> "Script":
        """Return the script with notes after what it opens with."""
        n = len(self.opening)
        told = tuple(Piece("note", note) for note in notes)
        return replace(self, pieces=(*self.pieces[:n], *told, *self.pieces[n:]))

    @property
    def opening(self) -> tuple[Piece, ...]:
        """The instruction, and what else is said before the first question and its context."""
        n = next(i for i, piece in enumerate(self.pieces) if piece.role not in OPENING)
        return self.pieces[:n]

    @property
    def turns(self) -> list[tuple[Piece, ...]]:
        """What follows the opening, cut after each answer; the last turn may have none."""
        turns, turn = [], []
        for piece in self.pieces[len(self.opening) :]:
            turn.append(piece)
            if piece.role == "answer":
                turns.append(tuple(turn))
                turn = []
        return [*turns, tuple(turn)] if turn else turns


def asked(question: Question | Example) -> list[Piece]:
    """Return the pieces of a question: its context, if it has one, and what is asked."""
    context = [Piece("context", question.context, question.id)] if question.context else []
    return [*context, Piece("question", question.input, question.id)]


def shown(examples: Sequence[Example]) -> list[Piece]:
    """Return the pieces of demonstrations, in their order."""
    return [piece for e in examples for piece in _answered(e)]


@lru_cache(maxsize=4096)
def _answered(example: Example) -> tuple[Piece, ...]:
    """Return the pieces of a demonstration: along a stream it is shown again and again."""
    return (*asked(example), Piece("answer", example.output, example.id))


def opening(task: Task) -> list[Piece]:
    """Return the task's instruction, if it has one."""
    return [Piece("instruction", task.instruction)] if task.instruction else []


@dataclass(frozen=True)
class UsualWording:
    """Says instruction, demonstrations and question, in the words of the task's kind (`WORDS`).

    Example:
        >>> task = Task("t", "classification", (), labels=("a", "b"), instruction="Say a or b.")
        >>> script = UsualWording().compose(task, [Example("1", "a", "x")], Question("2", "y"))
        >>> [piece.text for piece in script.pieces], script.given, script.wanted
        (['Say a or b.', '1', 'a', '2'], 'Text', 'Label')
    """

    def compose(self, task: Task, demonstrations: Sequence[Example], question: Question) -> Script:
        """Return what is said, with all demonstrations in the order given, the last one next to the question."""
        return Script((*opening(task), *shown(demonstrations), *asked(question)), *WORDS[task.kind])

    def said(self, task: Task, answer: str) -> str:
        """Return how an answer is said: as it is."""
        return answer

    @property
    def alternatives(self) -> "tuple[UsualWording]":
        """Itself: there is nothing to choose from."""
        return (self,)
