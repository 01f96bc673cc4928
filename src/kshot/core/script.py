"""What is said to a model: pieces of text with roles, before anybody knows how it is written for a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from kshot.core.control_tokens import Speller
from kshot.core.errors import UserError
from kshot.core.types import Example, Kind, Question, Task

ScriptRole = Literal["instruction", "note", "schema", "context", "question", "reason", "answer", "feedback"]
Wants = Literal["answer", "reason"]
OPENING: tuple[ScriptRole, ...] = ("instruction", "note", "schema")  # what can stand before the first question
# What question and answer are called, chosen by the bits on training rows with the 270M model (JOURNAL.md, 2026-11-22)
WORDS: Mapping[Kind, tuple[str, str]] = {
    "classification": ("Text", "Label"),
    "multi_label": ("Text", "Labels"),
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
        mark: A token of the model's own that is said after the text, as it is.
    """

    role: ScriptRole
    text: str
    example: str = field(default="", compare=False)
    mark: str = ""

    def spelled_out(self, spell: Speller) -> "Piece":
        """Return the piece with marks in the control tokens that its text spells; itself where there are none."""
        text = spell(self.text)
        if self.mark:
            return replace(self, text=f"{text} {self.mark}", mark="")
        return self if text is self.text else replace(self, text=text)


@dataclass(frozen=True)
class Script:
    """What is said, in reading order, up to where the last answer begins (or ends, in a text to be learnt).

    Attributes:
        pieces: Instruction and notes first; then for each demonstration context, question, and answer, with a reason
            before the answer or right after it, if it has one; then the context and question that are asked. A context
            can also stand between its question and what comes next.
        given: What a question is called where the layout names it, such as "Text"; empty if it has no name.
        wanted: What an answer is called, such as "Label".
        wants: What comes next. Where it is a reason, one that ends the script has only been begun.
        grounds: What a reason is called, such as "Reason" or "Evidence".
    """

    pieces: tuple[Piece, ...]
    given: str = "Input"
    wanted: str = "Output"
    wants: Wants = "answer"
    grounds: str = "Reason"

    def __post_init__(self):
        last = self.pieces[-1].role if self.pieces else "nothing"
        is_after = last == "context" and self.passage_is_after(len(self.pieces) - 1)
        if last not in ("question", "reason", "answer") and not is_after:
            raise UserError(
                f"A script must end with a question, a reason or an answer; it ends with {last}. Change the composer."
            )
        is_asked, before = False, ""
        for piece in self.pieces:
            if piece.role == "question":
                is_asked = True
            elif piece.role == "answer":
                self._check(is_asked, piece)
                is_asked = False
            elif piece.role == "reason" and before != "answer":
                self._check(is_asked, piece)
            before = piece.role
        self._check(is_asked or last != "question", self.pieces[-1])
        if self.wants == "reason" and not is_asked:
            raise UserError("A reason can only be wanted of a question without an answer. Change the composer.")

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
        return self if is_same and wanted is self.wanted else Script(pieces, given, wanted, self.wants, self.grounds)

    def noted(self, notes: Sequence[str]) -> "Script":
        """Return the script with notes after what it opens with."""
        n = len(self.opening)
        told = tuple(Piece("note", note) for note in notes)
        return replace(self, pieces=(*self.pieces[:n], *told, *self.pieces[n:]))

    def beside_question(self, contexts: Sequence[str]) -> "Script":
        """Return the script with contexts of what is asked, before its own."""
        n = len(self.pieces) - len(self.turns[-1])
        told = tuple(Piece("context", context) for context in contexts)
        return replace(self, pieces=(*self.pieces[:n], *told, *self.pieces[n:]))

    def passage_is_after(self, at: int) -> bool:
        """Return whether the context at a place stands right after its question, or other contexts of it."""
        before = at
        while before >= 0 and self.pieces[before].role == "context":
            before -= 1
        return 0 <= before < at and self.pieces[before].role == "question"

    def passages_last(self) -> "Script":
        """Return the script with the contexts of each question right after it."""
        pieces, waiting = list[Piece](), list[Piece]()
        for i, piece in enumerate(self.pieces):
            if piece.role == "context" and not self.passage_is_after(i):
                waiting.append(piece)
                continue
            pieces.append(piece)
            if piece.role == "question":
                pieces += waiting
                waiting = []
        return replace(self, pieces=tuple(pieces))

    @property
    def opening(self) -> tuple[Piece, ...]:
        """The instruction, and what else is said before the first question and its context."""
        n = next(i for i, piece in enumerate(self.pieces) if piece.role not in OPENING)
        return self.pieces[:n]

    @property
    def turns(self) -> list[tuple[Piece, ...]]:
        """What follows the opening, cut after each answer and the reason right after it; the last may have none."""
        turns: list[list[Piece]] = []
        for piece in self.pieces[len(self.opening) :]:
            is_after = piece.role == "reason" and turns and turns[-1][-1].role == "answer"
            if turns and (is_after or all(other.role != "answer" for other in turns[-1])):
                turns[-1].append(piece)
            else:
                turns.append([piece])
        return [tuple(turn) for turn in turns]

    @property
    def asked_pieces(self) -> dict[int, str]:
        """Which pieces are what is asked, by their place: "question", and each "context" of it.

        Those are the contexts in its turn, and any of the same example that is said before, as where other questions on
        the same text come first.
        """
        last = max(i for i, piece in enumerate(self.pieces) if piece.role == "question")
        first, example = len(self.pieces) - len(self.turns[-1]), self.pieces[last].example
        own = [
            i
            for i, piece in enumerate(self.pieces)
            if piece.role == "context" and (i >= first or (example and piece.example == example))
        ]
        return dict.fromkeys(own, "context") | {last: "question"}


@dataclass(frozen=True)
class Turn:
    """One of a script's turns by what it is made of.

    Attributes:
        asked: The question, with what stands before it, and a context after it.
        reasons: Before the answer.
        answer: None where it is not given.
        because: The reason after the answer.
    """

    asked: tuple[Piece, ...]
    reasons: tuple[Piece, ...] = ()
    answer: Piece | None = None
    because: Piece | None = None

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "Turn":
        """Return the turn of some pieces."""
        at = next((i for i, piece in enumerate(pieces) if piece.role == "answer"), len(pieces))
        asked, reasons = (
            tuple(piece for piece in pieces[:at] if (piece.role == "reason") == is_reason)
            for is_reason in (False, True)
        )
        answer, because = [*pieces[at:], None, None][:2]
        return cls(asked, reasons, answer, because)


def without_empty_lines(text: str) -> str:
    """Return a text without empty lines, and without white space at both ends: what a reason is in a script."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines() if line.strip())


def asked(question: Question | Example) -> list[Piece]:
    """Return the pieces of a question: its context, if it has one, and what is asked."""
    context = [Piece("context", question.context, question.id)] if question.context else []
    return [*context, Piece("question", question.input, question.id)]


def shown(examples: Sequence[Example], reasons: str = "") -> list[Piece]:
    """Return the pieces of demonstrations, in their order.

    Args:
        examples: The demonstrations.
        reasons: "before" or "after" the answer is where an example's explanation is said; empty: it is not.
    """
    return [piece for e in examples for piece in _answered(e, reasons)]


@lru_cache(maxsize=4096)
def _answered(example: Example, reasons: str) -> tuple[Piece, ...]:
    """Return the pieces of a demonstration: along a stream it is shown again and again."""
    answer, reason = Piece("answer", example.output, example.id), ()
    if reasons and example.explanation:
        reason = (Piece("reason", without_empty_lines(example.explanation), example.id),)
    before, after = (reason, ()) if reasons == "before" else ((), reason)
    return (*asked(example), *before, answer, *after)


def usual(task: Task, demonstrations: Sequence[Example], question: Question, reasons: str = "") -> Script:
    """Return instruction, demonstrations and question in the words of the task's kind; `reasons` as in `shown`."""
    return Script((*opening(task), *shown(demonstrations, reasons), *asked(question)), *WORDS[task.kind])


def answered(script: Script, answer: str, example: str) -> Script:
    """Return a script with the answer that it ends before, of an example with this id."""
    return replace(script, pieces=(*script.pieces, Piece("answer", answer, example)))


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
        return usual(task, demonstrations, question)

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return how an answer is said: as it is."""
        return answer

    @property
    def reason_weight(self) -> float:
        """How much the reasons of a text that is learnt count beside its answers: it has none."""
        return 0.0

    def taught(self, task: Task, demonstrations: Sequence[Example], target: Example) -> Script:
        """Return what is learnt: what is said, and the target's answer."""
        return answered(self.compose(task, demonstrations, target.question), target.output, target.id)

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return which answer a text is: as it is."""
        return text

    def stated(self, text: str) -> None:
        """Return how sure a text says that it is: it does not say."""

    def unsaid(self, task: Task, answer: str, question: Question) -> float:
        """Return the nats of an answer beyond its words: none."""
        return 0.0

    @property
    def alternatives(self) -> "tuple[UsualWording]":
        """Itself: there is nothing to choose from."""
        return (self,)

    @property
    def shorter(self) -> None:
        """What says less in its place: there is nothing to give up."""
        return None

    @property
    def asks_each(self) -> bool:
        """Whether a set of labels is asked for by yes or no to each: labels are named."""
        return False
