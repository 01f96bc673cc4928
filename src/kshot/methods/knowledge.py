"""What a teacher may know when it makes lessons, about its student and about what others say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kshot.core.lessons import Lesson
from kshot.core.types import Example, Prediction


@dataclass(frozen=True)
class Written:
    """An answer that the student has written to a lesson's question, before a step.

    Attributes:
        answer: Without what it states.
        is_right: Whether it is no mistake by the task's metric.
        stated: How sure it says that it is, 0 to 1; None: it does not say.
        among: The answers that it was drawn from; empty: all texts.
        is_whole: A lesson with this answer ends with the very text that was drawn: it was not cut off, for one.
    """

    answer: str
    is_right: bool
    stated: float | None = None
    among: tuple[str, ...] = ()
    is_whole: bool = True


def _no_tries(lessons: Sequence[Lesson], turn: int) -> list[Written | None]:
    return []


def _no_answers(examples: Sequence[Example]) -> list[Prediction]:
    return []


def _no_odds(lessons: Sequence[Lesson]) -> list[Mapping[str, float]]:
    return []


@dataclass(frozen=True)
class Knowledge:
    """What there is to know in one step; nothing, as far as it is not said.

    What is called costs something, which is counted as the recipe's; a teacher that does not call it pays nothing.

    Attributes:
        wrong: The ids of the examples so far that the model got wrong before it learnt them
            (`Teacher.sees_mistakes`).
        found: What the teacher found out about these then, by id (`Teacher.compare`).
        averaged: What the running average of the weights said of each example before that was learnt, by id
            (`Teacher.sees_average`); the new one is not among them.
        passed_on: What the recipe in brackets says, by id (`Teacher.passes_on`): of the examples up to the last refit
            point, none of which was known to it when it was asked about it, and of some of `inputs`.
        inputs: Unlabelled ones; their outputs are empty.
        asked: Returns what `Teacher.ask` has returned at the last refit point; None where nobody was asked.
        average: Returns what the running average says of examples, asked as the student is.
        written: Returns so many answers of the student to the question of each lesson, by the ids of the targets. They
            are drawn at temperature 1, from the weights as they are, to the prompts that the student is asked: nothing
            that the teacher is told or shown is in these.
        tried: Returns one answer of the student to the question of each of some lessons, such as those of a dialogue
            that the teacher has with it; None where that does not fit the model. They are drawn at temperature 1 from
            the weights as they are, among the candidates where the task has some. The second argument is the turn, from
            0: equal lessons are answered otherwise at another place or turn.
        odds: Returns how probable the student, as it is, finds each answer to the question of each lesson: the labels
            of the examples so far, or the question's own choices.
    """

    wrong: frozenset[str] = frozenset()
    found: Mapping[str, Any] = field(default_factory=dict)
    averaged: Mapping[str, Prediction] = field(default_factory=dict)
    passed_on: Mapping[str, Prediction] = field(default_factory=dict)
    inputs: tuple[Example, ...] = ()
    asked: Callable[[], Any] = lambda: None
    average: Callable[[Sequence[Example]], list[Prediction]] = _no_answers
    written: Callable[[int], Mapping[str, Sequence[Written]]] = lambda n: {}
    tried: Callable[[Sequence[Lesson], int], Sequence[Written | None]] = _no_tries
    odds: Callable[[Sequence[Lesson]], Sequence[Mapping[str, float]]] = _no_odds


NOTHING = Knowledge()
