"""The teacher is the model itself before training, shown demonstrations that the student has to do without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import DIRECTIONS, Distil
from kshot.core.types import Example
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge

OWN_TOKENS: Mapping[str, str] = {
    "by": "It compares probabilities of tokens, and those of another model are others, so the teacher is the model "
    "itself. Where another one is to teach, let it pass on answers: distil(random:k=16):by=selector-model"
}


@dataclass(frozen=True)
class Demonstrations(Teacher):
    """Draw demonstrations from the past for the teacher of each lesson; the student learns to say the same as it.

    The student sees what the tuner shows it: beside `fine-tune` the bare question, beside `icl+ft` its demonstrations.

    Attributes:
        k: The most demonstrations that the teacher is shown.
        temperature: Logits of teacher and student are divided by it.
        direction: "forward" is KL(teacher || student), "reverse" is KL(student || teacher).

    Source: Snell et al. (2022), https://arxiv.org/abs/2209.15189, and Askell et al. (2021), section 2,
    https://arxiv.org/abs/2112.00861.
    Differs: the known answer is what both read, instead of one that the teacher samples; demonstrations are drawn anew
    for each lesson.
    """

    k: int = setting(8, least=1, most=1000)
    temperature: float = setting(1.0, above=0)
    direction: str = setting("forward", choices=DIRECTIONS)

    absent = OWN_TOKENS

    @property
    def objective(self) -> Distil:
        """What is made small over the lessons."""
        return Distil(self.temperature, self.direction)

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons with demonstrations for their teachers, never the target nor one that asks the same.

        Args:
            lessons: The tuner's.
            seen: All examples so far.
            step: Which of the steps for the newest example it is, from 0.
            rng: For every random choice.
            knowledge: Not needed.
        """
        return [replace(lesson, teacher=self._drawn(lesson.target, seen, rng)) for lesson in lessons]

    def _drawn(self, target: Example, seen: Sequence[Example], rng: np.random.Generator) -> tuple[Example, ...]:
        others = [e for e in seen if e.id != target.id and e.text != target.text]
        return tuple(others[i] for i in rng.permutation(len(others))[: self.k])
