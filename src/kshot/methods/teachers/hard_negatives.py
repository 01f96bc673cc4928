"""An answer is learnt against the labels that the student finds most probable beside it, each as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import Policy
from kshot.core.types import Example, Task
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge

_LEAST = 0.02  # the probability from which on a wrong answer is learnt


@dataclass(frozen=True)
class HardNegatives(Teacher):
    """Let the right label become more probable beside the others, and the wrong ones that are nearest to it less.

    A label's score s is the log-probability of all its tokens, by which predictions compare labels too. Before a step
    the student says q = softmax(s) over the labels of the examples so far, or a row's own choices. What is made small
    is -log q of the right one y: its gradient is that of

        mean over all tokens of -A log p(token),    A = 1 - q_y for those of y, A = -q_l for those of another label l.

    Of the others the `n` most probable are learnt. A label without an example is not pushed down, and what stands
    before the answer in a lesson is read, not learnt.

    Attributes:
        n: The most other labels for each lesson; those below a probability of 0.02 are left out.

    Source: Liu et al. (2022), the loss L_LN of T-Few, https://arxiv.org/abs/2205.05638.
    Differs: log-probabilities are not divided by the number of tokens, as predictions do not either; no other loss is
    added; the most probable of the others in place of all of them; the mean is over tokens, not over lessons.
    """

    n: int = setting(4, least=1, most=1000)
    _rehearses: bool = state(False)

    replaces = True

    @property
    def objective(self) -> Policy:
        """What is made small over the lessons."""
        return Policy()

    def suits(self, task: Task) -> bool:
        """Return whether one of several known answers is right."""
        return not task.is_open and not task.is_multi_label

    def rehearsing(self) -> Self:
        """Return a teacher who leaves no label out, however improbable."""
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
        """Return a lesson for each answer that is learnt; see `kshot.methods.contracts.Teacher`."""
        odds = knowledge.odds(lessons)
        if not odds:  # there is no student
            return list(lessons)
        return [one for lesson, found in zip(lessons, odds, strict=True) for one in self._learnt(lesson, found)]

    def _learnt(self, lesson: Lesson, odds: Mapping[str, float]) -> list[Lesson]:
        """Return the lessons that end with the right answer, and with the others that are nearest to it."""
        right = lesson.target.output
        near = sorted((answer for answer in odds if answer != right), key=lambda answer: -odds[answer])[: self.n]
        found = [replace(lesson, learnt="last", advantage=1 - odds[right])]
        for answer in near:
            if odds[answer] >= _LEAST or self._rehearses:
                target = replace(lesson.target, output=answer, references=(), explanation=None)
                found.append(replace(lesson, target=target, learnt="last", advantage=-odds[answer]))
        return found
