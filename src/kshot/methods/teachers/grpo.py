"""The student plays dialogues with a teacher who knows the answer, and learns what it said where it came to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.lessons import Lesson
from kshot.core.models import Capability
from kshot.core.objective_settings import Policy
from kshot.core.types import Example, FloatArray, Task
from kshot.measures.metrics import get_metric
from kshot.measures.samples import primary_metric
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge, Written
from kshot.methods.loops.hints import hint_on
from kshot.methods.roles import spoken


@dataclass(frozen=True)
class Grpo(Teacher):
    """Let the student as it is now try each lesson's question, with hints, and learn by who came to the answer (GRPO).

    In each step `group` dialogues are played for each lesson. In one, the student has up to `turns` tries, drawn at
    temperature 1; after a wrong one it is given a hint by rules, which does not say the answer
    (`kshot.methods.loops.hints`). The reward r is 1 where a try was right, else 0: it is known at the end alone. With
    A = (r - mean r) / std r over the group, what is made small is

        mean over the tokens of all tries of -A x discount^turn x log p(token),

    where the first turn is 0. Tokens of questions and hints are read, not learnt. A group whose rewards are all equal
    tells nothing, and is left out. With turns=1 this is plain GRPO on answers that can be checked.

    The first try is asked as the adapted model will be, so what is learnt of it is learnt of the model's answers. A
    later one is asked the same question with the dialogue below it, not in the loop's own words, so that the question
    stands in the same place at every turn, and what is learnt at one helps at the others.

    Attributes:
        group: Dialogues for each lesson.
        turns: The most tries in one.
        discount: How much a try counts beside the one before it; with 0 first tries alone are learnt.
        hint_weight: How much each token of a hint counts beside one of a try, where the student learns to say the hints
            itself, after the wrong try, without knowing the answer; 0: it does not.

    Source: Improving Interactive In-Context Learning from Natural Language Feedback (2026),
    https://arxiv.org/abs/2602.16066, in the setting of https://arxiv.org/abs/2602.16488; the loss: Shao et al. (2024),
    GRPO, https://arxiv.org/abs/2402.03300.
    Differs: hints by rules, in place of a model that knows the solution; four dialogues, not eight; a text for each
    try, so that what is learnt is exactly what was asked. A try that was cut off, or that the layout would write
    otherwise, counts in its dialogue, and is not learnt.
    """

    group: int = setting(4, least=2, most=1000, hint="A single dialogue has no other to be better than.")
    turns: int = setting(4, least=1, most=100)
    discount: float = setting(0.7, least=0, most=1)
    hint_weight: float = setting(0.0, least=0)
    _rehearses: bool = state(False)

    version = 2
    needs = frozenset({Capability.GENERATE})

    @property
    def objective(self) -> Policy:
        """What is made small over the lessons."""
        return Policy()

    def obstacle(self, task: Task) -> str | None:
        """Return in words why it cannot be used on the task's examples; None: it can."""
        if task.is_open and not get_metric(metric := primary_metric(task)).zero_one:
            return (
                f"answers must be right or wrong to be a reward, and {metric} says how near they are; name a metric "
                "such as exact_match first"
            )
        return super().obstacle(task)

    def rehearsing(self) -> Self:
        """Return a teacher whose student never finds the answer, and learns every try."""
        return replace(self, _rehearses=True)

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return what the student said, each try a lesson; see `kshot.methods.contracts.Teacher`."""
        groups = [[_Dialogue(lesson) for _ in range(self.group)] for lesson in lessons]
        for turn in range(self.turns):
            going = [one for group in groups for one in group if one.goes_on]
            if not going:
                break
            tries = knowledge.tried([one.asked for one in going], turn)
            if not tries:  # there is no student
                return list(lessons)
            for one, written in zip(going, tries, strict=True):
                one.hear(written, is_last=turn + 1 == self.turns)
        return [lesson for group in groups for lesson in self._learnt(group)]

    def _learnt(self, group: "Sequence[_Dialogue]") -> list[Lesson]:
        """Return the lessons of the dialogues about one question."""
        better, found = advantages([float(one.is_solved) for one in group]), list[Lesson]()
        if self._rehearses:
            better = np.ones(len(group))
        for one, advantage in zip(group, better.tolist(), strict=True):
            for turn, (lesson, is_whole) in enumerate(one.tries):
                own = advantage * self.discount**turn
                if own and (is_whole or self._rehearses):
                    found.append(replace(lesson, advantage=own))
        if self.hint_weight:
            hints = dict.fromkeys(lesson for one in group for lesson in one.hints)
            found += [replace(lesson, advantage=1.0, weight=self.hint_weight) for lesson in hints]
        return found


@dataclass(eq=False)
class _Dialogue:
    """A dialogue about a lesson's question.

    Attributes:
        lesson: The tuner's.
        turns: What was said: who, and what.
        tries: A lesson that ends with each try that was not empty, and whether that is what was drawn.
        hints: A lesson that ends with each hint.
    """

    lesson: Lesson
    turns: list[tuple[str, str]] = field(default_factory=list)
    tries: list[tuple[Lesson, bool]] = field(default_factory=list)
    hints: list[Lesson] = field(default_factory=list)
    is_solved: bool = False
    goes_on: bool = True

    @property
    def asked(self) -> Lesson:
        """The lesson whose question is what the student is asked next."""
        return self._saying(self.turns)

    def _saying(self, turns: Sequence[tuple[str, str]]) -> Lesson:
        target = self.lesson.target
        said = f"{target.input}\n{spoken(turns).rstrip()}" if turns else target.input
        return replace(self.lesson, target=replace(target, input=said, explanation=None), learnt="last")

    def hear(self, written: Written | None, *, is_last: bool) -> None:
        """Take what the student has written, and answer it with a hint if it is wrong and may try again.

        None: there was no room for an answer.
        """
        if written is None:
            self.goes_on = False
            return
        asked, example = self.asked, self.lesson.target
        self.tries.append((_ending(asked, written.answer, written.among), written.is_whole))
        if written.is_right:
            self.is_solved, self.goes_on = True, False
            return
        if is_last:
            return
        self.turns.append(("Wrong", " ".join(written.answer.split())))
        hint = hint_on(written.answer, example)
        to_come = _ending(self._saying([*self.turns, ("Hint", "")]), hint, ())
        self.hints.append(replace(to_come, is_apart=True))
        self.turns.append(("Hint", hint))


def _ending(lesson: Lesson, answer: str, among: tuple[str, ...]) -> Lesson:
    """Return a lesson that ends with another answer, drawn from `among`."""
    return replace(lesson, target=replace(lesson.target, output=answer, references=()), among=among)


def advantages(rewards: Sequence[float]) -> FloatArray:
    """Return by how many standard deviations each reward is above the mean `[n]`; 0 where all are equal.

    Example:
        >>> advantages([1.0, 0.0, 0.0, 1.0]).tolist(), advantages([1.0, 1.0]).tolist()
        ([1.0, -1.0, -1.0, 1.0], [0.0, 0.0])
    """
    rows = np.array(rewards, dtype=np.float64)
    spread = float(rows.std())
    return (rows - rows.mean()) / spread if spread else np.zeros(len(rows))
