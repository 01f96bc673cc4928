"""The teacher is told not to answer what is to be forgotten; the student learns to do so without being told."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import Bidirectional
from kshot.core.types import Example, Task
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.teachers.context_distillation import OWN_TOKENS

FORGET = "forget"  # in an example's `meta`: it is to be forgotten
NOT = ("", "0", "0.0", "false", "no", "n", "f")  # what such a column of text says of others, in small letters
OPENING = "The answer is"  # of an answer of one word, which has no beginning of its own


@dataclass(frozen=True)
class Unlearn(Teacher):
    """Let lessons of what is to be forgotten say what the model says of them when it is told not to answer.

    The teacher is the model before training. Before a question that is to be forgotten (`forget` in its row) it is told
    `told`, and shown `k` others that are answered so; the student reads the question as it is asked. Both read on with
    `says`, or with the beginning of the known answer and then `says`. Of all other examples the teacher reads what the
    student reads: there the student is to stay as it was.

    Attributes:
        top: How many of the most probable tokens of both are compared.
        weight: How much it counts that what the model said before, and the teacher does not, is not said any more.
        k: The most refused questions that the teacher is shown.
        prefilled: The chance that a lesson goes on from the beginning of the known answer.
        told: What the teacher is told; {says} stands for `says`.
        says: The answer to what is forgotten.

    Source: Zhong et al. (2026), Harmonizing Multi-Objective LLM Unlearning, https://arxiv.org/abs/2604.15482.
    Differs: no other model rewrites the data; the teacher is told of one question that it must not be answered, in
    place of reasoning whether it is in the scope, and is shown refused questions; loss and numbers are ours.
    """

    top: int = setting(20, least=1, most=1000)
    weight: float = setting(0.5, least=0)
    k: int = setting(4, least=0, most=100)
    prefilled: float = setting(0.5, least=0, most=1)
    told: str = "This question must not be answered. The only answer is: {says}"
    says: str = "I do not know."

    absent = OWN_TOKENS

    @property
    def objective(self) -> Bidirectional:
        """What is made small over the lessons."""
        return Bidirectional(self.top, self.weight)

    def suits(self, task: Task) -> bool:
        """Return whether answers are texts, so that there is one that tells nothing."""
        return task.is_open

    def missing_field(self, task: Task) -> str | None:
        """Return what the rows must have so that one of them is to be forgotten."""
        return None if any(map(is_forgotten, task.train)) else FORGET

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons with what the teacher reads; see `kshot.methods.contracts.Teacher`."""
        forgotten = [example for example in seen if is_forgotten(example)]
        return [self._taught(lesson, forgotten, rng) for lesson in lessons]

    def _taught(self, lesson: Lesson, forgotten: Sequence[Example], rng: np.random.Generator) -> Lesson:
        target, shown = lesson.target, lesson.demonstrations
        if not is_forgotten(target):
            return replace(lesson, teacher=shown)
        others = [e for e in forgotten if e.id != target.id and e.text != target.text]
        refused = [replace(others[i], output=self.says) for i in rng.permutation(len(others))[: self.k]]
        starts = beginnings(target.output)
        is_begun = rng.random() < self.prefilled
        begun = f"{starts[int(rng.integers(len(starts)))]} " if is_begun else ""
        about = {"teacher": (*shown, *refused), "note": self.told.replace("{says}", self.says)}
        return replace(lesson, target=replace(target, output=begun + self.says, references=()), learnt="last", **about)


def is_forgotten(example: Example) -> bool:
    """Return whether an example is to be forgotten; a file of text, such as CSV, says "false" or "0" of others."""
    mark = example.meta.get(FORGET)
    return mark.strip().lower() not in NOT if isinstance(mark, str) else bool(mark)


def beginnings(answer: str) -> list[str]:
    """Return how an answer may begin: with its first words, but not all; of one word with none that tells."""
    words = answer.split()
    return [" ".join(words[:n]) for n in range(1, len(words))] or [OPENING]
