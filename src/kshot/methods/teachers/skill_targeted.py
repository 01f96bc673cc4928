"""What the model got wrong says what is learnt: more lessons of the skills that it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import Answers
from kshot.core.types import Example
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.skill_profile import Skilled, chances, drawn, missed

BY = ("draw", "weight")


@dataclass(frozen=True)
class SkillTargeted(Skilled, Teacher):
    """Draw the lessons by the skills that the model's own mistakes need, or weigh them so.

    n_k is the number of examples so far that need skill k and that the model got wrong before it learnt them. A skill
    is drawn with a chance proportional to n_k + 1, then an example that needs it; as long as there is no mistake,
    lessons are the tuner's. What a lesson makes small stays the tuner's objective.

    Attributes:
        by: "draw" draws the targets of the lessons anew; "weight" leaves them, and weighs each by its chance against
            the mean chance, which says something only where a step has several lessons.
        encoder: "minilm", or a sentence-transformers hub id or folder.

    Source: He et al. (2025), STAT, https://arxiv.org/abs/2510.10023, STAT-Sel.
    Differs: along a stream, by the mistakes of the model that is trained, instead of once by those of a validation set;
    a mistake counts for all skills of its example, as no teacher model says which of them it lacked; n_k + 1 instead
    of n_k.
    """

    by: str = setting("draw", choices=BY)

    sees_mistakes = True
    only_chooses = True

    @property
    def replaces(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether lessons are about other examples than the tuner's."""
        return self.by == "draw"

    @property
    def objective(self) -> Answers:
        """What is made small; the tuner's counts."""
        return Answers()

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return lessons of the skills that are missing; see `kshot.methods.contracts.Teacher`."""
        if not knowledge.wrong:
            return list(lessons)
        skills = self.skills_of(seen)
        chance = chances(skills, missed(skills, [e.id in knowledge.wrong for e in seen]))
        if self.by == "weight":
            by_id = {e.id: float(p) * len(seen) for e, p in zip(seen, chance, strict=True)}
            return [replace(lesson, weight=lesson.weight * by_id[lesson.target.id]) for lesson in lessons]
        targets = [seen[i] for i in drawn(chance, len(lessons), rng)]
        return [_about(lesson, target) for lesson, target in zip(lessons, targets, strict=False)]


def _about(lesson: Lesson, target: Example) -> Lesson:
    """Return the lesson with another target; where that was a demonstration, they change places."""
    before = tuple(lesson.target if e.id == target.id else e for e in lesson.demonstrations)
    return replace(lesson, target=target, demonstrations=before)
