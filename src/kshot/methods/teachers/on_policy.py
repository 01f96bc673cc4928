"""The teacher knows the answer, and how often the student finds it: that is how sure the student learns to be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Averaging, Lesson
from kshot.core.objective_settings import Distil
from kshot.core.types import Example, Task
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge, Written
from kshot.methods.stated_confidence import stating
from kshot.methods.teachers.context_distillation import OWN_TOKENS

STATES = ("measured", "own")


@dataclass(frozen=True)
class Calibrated(Teacher):
    """Let the student write, and teach it on its own answers, each with the share of them that is right.

    Before a step the student writes `samples` answers to each lesson's question, of which a share p is right. The
    lesson is one of them that is not empty, with p in place of the number that it states; the teacher, which is told
    the right answer and p, in a note and as the last demonstration, reads the same, and KL(teacher || student) at its
    tokens is made small, but for the first `skip`. The teacher's weights follow the student's.

    Attributes:
        samples: How many answers are written for each lesson.
        skip: The first so many tokens of an answer are not learnt, but the last always is.
        rate: By how much the teacher's weights move towards the student's with each step; 0: it stays the model before
            training.
        states: "measured" states p; "own" leaves the number that the student has written, and tells the teacher that
            the right answer is sure: plain self-distillation, to compare with.

    Source: Zhang et al. (2026), CaOPD, The Illusion of Certainty, https://arxiv.org/abs/2604.16830.
    Differs: one of the answers is learnt for each lesson; LoRA weights A and B move one by one; along a stream.
    """

    samples: int = setting(8, least=1, most=1000)
    skip: int = setting(3, least=0, most=1000)
    rate: float = setting(0.01, least=0, most=1)
    states: str = setting("measured", choices=STATES)

    version = 3
    usual_composer = "stated"
    replaces = True
    absent = OWN_TOKENS

    @property
    def objective(self) -> Distil:
        """What is made small over the lessons."""
        return Distil(skip=self.skip, asks="average" if self.rate else "before")

    @property
    def averaging(self) -> Averaging | None:
        """The teacher's weights: by `rate` nearer to the student's with each step."""
        return Averaging(1 - self.rate, warms_up=False) if self.rate else None

    def suits(self, task: Task) -> bool:
        """Return whether answers are texts, which say how sure they are."""
        return task.is_open

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons about what the student has written; see `kshot.methods.contracts.Teacher`."""
        written = knowledge.written(self.samples)
        return [self._taught(lesson, written.get(lesson.target.id, ()), rng) for lesson in lessons]

    def _taught(self, lesson: Lesson, answers: Sequence[Written], rng: np.random.Generator) -> Lesson:
        written = [one for one in answers if one.answer]
        if not written:  # nothing to learn from: teacher and student read the same
            return replace(lesson, teacher=lesson.demonstrations)
        share = sum(one.is_right for one in written) / len(answers)  # to say nothing is no success
        one = written[int(rng.integers(len(written)))]
        stated = share if self.states == "measured" else one.stated
        text = one.answer if stated is None else stating(one.answer, stated)
        sure = share if self.states == "measured" else 1.0
        known = replace(lesson.target, output=stating(lesson.target.output, sure))
        target = replace(lesson.target, output=text, references=())
        shown = (*lesson.demonstrations, known)
        note = f"The right answer to this question is: {known.output}"
        return replace(lesson, target=target, learnt="last", teacher=shown, note=note)
