"""The teacher reads all of a long context, and the student the part of it that it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import DIRECTIONS, Distil
from kshot.core.types import Example
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.teachers.context_distillation import OWN_TOKENS
from kshot.methods.tuners.windowed import WHOLE


@dataclass(frozen=True)
class History(Teacher):
    """Distil from the model before training as it reads each context whole, where the student reads a part of it.

    It stands beside the tuner `windowed`, whose student reads the end of a context and a few sentences from before it,
    in lessons and when it is asked. At the tokens of the known answer the student learns to say what the teacher says:
    what the part tells less surely than the whole, and what many contexts say alike before the window.

    Attributes:
        temperature: Logits of teacher and student are divided by it.
        direction: "forward" is KL(teacher || student), "reverse" is KL(student || teacher).

    Source: Chen et al. (2026), Context Forcing, https://arxiv.org/abs/2602.06028, of video: an analogue in text, by the
    loss of Snell et al. (2022), https://arxiv.org/abs/2209.15189.
    Differs: a text in place of a video; the known answer is what both read, in place of what the student rolls out; the
    teacher is the model itself.
    """

    temperature: float = setting(1.0, above=0)
    direction: str = setting("forward", choices=DIRECTIONS)

    uses_contexts = True
    reads_all = True
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
        """Return the lessons with a teacher that reads the same, whole; see `kshot.methods.contracts.Teacher`."""
        return [replace(lesson, teacher=lesson.demonstrations, teacher_asked=WHOLE) for lesson in lessons]
