"""A tutor leads a student from a wrong answer to the right one: how often that works, and how often it was told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.contracts import Artefact
from kshot.methods.loops.hints import concludes, leaks
from kshot.methods.loops.refine import one_line
from kshot.methods.loops.talking import Talking, told_at_the_end
from kshot.methods.roles import spoken
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

_FIRST = "{question}\nAnswer in one short sentence.\nAnswer:"
_TUTOR = (
    "You tutor a student.\nProblem: {question}\nRight answer: {answer}\n\n{talk}\n\nSay one thing that helps the "
    "student to find the mistake; do not say the answer.\nTutor:"
)
_STUDENT = "{question}\n\n{talk}\n\nYou are the student. Reply in one short sentence with your answer.\nStudent:"


@dataclass(frozen=True)
class Tutorial:
    """A dialogue of tutor and student on an example.

    Attributes:
        example: Its problem.
        turns: (who, what), the student's first attempt before all others.
        solved_at: The tutor's turn after which the student said the answer, from 1; 0: at the first attempt; None:
            never.
        told_at: The first of the tutor's turns that said it; None: none.
    """

    example: Example
    turns: tuple[tuple[str, str], ...]
    solved_at: int | None
    told_at: int | None


@dataclass(frozen=True)
class Tutored:
    """How tutoring went by a turn: success says nothing without telling, so there is no one without the other.

    Attributes:
        success: The share of the students who began wrong and said the answer by then.
        telling: The share of them whom the tutor had told it by then.
    """

    success: float
    telling: float


def tutored(lessons: Sequence[Tutorial], k: int) -> Tutored:
    """Return success@k and telling@k of the lessons that began with a wrong attempt; both are 0 where there is none."""
    begun = [one for one in lessons if one.solved_at != 0]
    if not begun:
        return Tutored(0.0, 0.0)
    shares = (
        sum(at is not None and at <= k for at in some) / len(begun)
        for some in ([one.solved_at for one in begun], [one.told_at for one in begun])
    )
    return Tutored(*shares)


@dataclass(frozen=True)
class Tutoring(Talking):
    """Let a tutor, who knows the answer, lead a student from a wrong attempt to it; keep what worked without telling.

    For each example the student makes a first attempt. Where it is wrong tutor and student speak in turn, until the
    student says the answer, and no other that could be chosen (of numbers the last one counts), or after `turns` turns
    of the tutor. A tutor's turn that says the answer is told, and counted (`telling`) beside success; it is not
    forbidden. Dialogues that succeed and in which nothing was told become examples, marked as made, whose explanation
    is the dialogue, for composers that say reasons. The run's record has success and telling by turn, each beside the
    other.

    Attributes:
        turns: The most turns of the tutor in a dialogue.
        lessons: The most examples that are tried.
        length: The most tokens of a turn.
        student: Who learns: "model", "person", or another model.
        tutor: Who teaches, likewise.

    Source: Macina et al. (2023), MathDial: A Dialogue Tutoring Dataset with Rich Pedagogical Properties Grounded in
    Math Reasoning Problems, https://arxiv.org/abs/2305.14536.
    Differs: the student's own first attempt takes the place of a wrong solution from a file; telling is the answer's
    number or words in a turn; what worked becomes reasons of examples.
    """

    turns: int = setting(3, least=1, most=100)
    lessons: int = setting(16, least=1, most=100_000)
    length: int = setting(60, least=1, most=10_000)
    student: str = "model"
    tutor: str = "model"

    version = 6
    least = 1
    players: ClassVar[tuple[str, ...]] = ("student", "tutor")

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield what worked after each dialogue; see `Talking.rounds`."""
        found, kept = list[Tutorial](), list[Example]()
        with told_at_the_end(lambda: self._tell(found, model)):
            for i in rng.permutation(len(examples))[: self.lessons]:
                example = examples[i]
                one = self.lesson(example, talk, among=model.task.candidates(example))
                found.append(one)
                if one.solved_at and one.told_at is None:
                    said, meta = spoken(one.turns[:-1]), {**example.meta, "made": "tutoring"}
                    kept.append(replace(example, id=f"{example.id}-tutored", explanation=said, meta=meta))
                yield Artefact(demonstrations=tuple(kept))

    def _tell(self, found: Sequence[Tutorial], model: TaskModel) -> None:
        """Note how the dialogues that came to their end went, if there are any."""
        if not found:
            return
        by_turn = [tutored(found, k) for k in range(1, self.turns + 1)]
        shares = [{"turn": k + 1, "success": s.success, "telling": s.telling} for k, s in enumerate(by_turn)]
        model.note({"loop": "tutoring", "lessons": len(found), "by_turn": shares})

    def lesson(self, example: Example, talk: Talk, attempt: str = "", *, among: Sequence[str] = ()) -> Tutorial:
        """Return the dialogue on an example.

        Args:
            example: Its answer is known to the tutor.
            talk: Asks the roles.
            attempt: What the student has said first, as in MathDial; empty: the student is asked.
            among: The answers that the student can choose from: who names another one too has not said the answer.
        """
        attempt = attempt or self._says("student", _FIRST.format(question=example.text), talk)
        turns = [("Student", attempt)]
        if answers(attempt, example, among):
            return Tutorial(example, tuple(turns), 0, None)
        told_at = None
        for k in range(1, self.turns + 1):
            words = {"question": example.text, "answer": example.output, "talk": spoken(turns)}
            turns.append(("Tutor", self._says("tutor", _TUTOR.format(**words), talk)))
            if told_at is None and leaks(turns[-1][1], example):
                told_at = k
            words["talk"] = spoken(turns)
            turns.append(("Student", self._says("student", _STUDENT.format(**words), talk)))
            if answers(turns[-1][1], example, among):
                return Tutorial(example, tuple(turns), k, told_at)
        return Tutorial(example, tuple(turns), None, told_at)

    def _says(self, who: str, request: str, talk: Talk) -> str:
        return talk.ask_for(who, request, one_line, "one sentence", most=self.length)


def answers(text: str, example: Example, among: Sequence[str] = ()) -> bool:
    """Return whether a text says an accepted answer, and none of the others that could be chosen.

    Of a number among no choices the last one that is said counts.

    Example:
        >>> row = Example("", "very good", "a")
        >>> [answers(text, row, ("good", "bad", "very good")) for text in ("It is very good.", "Very good or bad.")]
        [True, False]
        >>> [answers(text, Example("", "12", "a")) for text in ("As 6 + 6 = 12.0, it is 12.", "It is 12 or 13.")]
        [True, False]
    """
    if not among:
        return concludes(text, example)
    if not leaks(text, example):
        return False
    others = [Example("", answer, "") for answer in among if answer not in example.accepted]
    return not any(leaks(text, e) for e in others if not any(leaks(right, e) for right in example.accepted))


@dataclass(frozen=True)
class ScriptedStudent:
    """Says a wrong answer until the tutor's turns hold one of its key words, or the answer itself.

    Attributes:
        misconception: What it says at first.
        keys: Words of a tutor that make it understand.
        answer: What it must be, as it says from then on.
    """

    misconception: str
    keys: tuple[str, ...]
    answer: str

    def reply(self, request: str) -> str:
        """Return what it says after a request of `Tutoring`."""
        tutor = " ".join(line for line in request.splitlines() if line.startswith("Tutor: "))
        told = leaks(tutor, Example("", self.answer, ""))
        knows = told or any(key.casefold() in tutor.casefold() for key in self.keys)
        return f"It must be {self.answer}." if knows else self.misconception
