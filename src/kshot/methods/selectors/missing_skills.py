"""Demonstrations of the skills that the model lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.types import Example, FloatArray, Question
from kshot.methods.contracts import Selector
from kshot.methods.skill_profile import Skilled, chances, drawn, missed, mistakes
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class MissingSkills(Skilled, Selector):
    """Draw `k` examples by the skills that the model's own mistakes need.

    Each known example is asked by what was known before it; n_k of those that the model gets wrong need skill k. A
    skill is drawn with a chance proportional to n_k + 1, then an example that needs it. Costs one answer for each of
    the first `most` examples (in tasks of texts it is written), which is asked once: later choices find it in the run's
    store.

    Attributes:
        shots: Demonstrations after which the mistakes are made, the first ones of the stream.
        most: The most examples that are asked, the first ones of the stream.
        encoder: "minilm", or a sentence-transformers hub id or folder.

    Source: He et al. (2025), STAT, https://arxiv.org/abs/2510.10023, STAT-Sel.
    Differs: it chooses demonstrations too, not only what is learnt (`teacher=missing-skills`); a mistake counts for all
    skills of its example, as no teacher model says which of them it lacked; n_k + 1 instead of n_k.
    """

    shots: int = setting(4, least=0, most=1000)
    most: int = setting(128, least=1, most=100_000)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()
    _chances: list[FloatArray] = field(default_factory=list, repr=False, compare=False)

    per_query = False
    draws = True
    needs = frozenset({Capability.GENERATE})

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model, which is asked once there is a choice."""
        return replace(self, _pool=tuple(pool), _model=model, _chances=[])

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices (all of a smaller pool) in the order of the draw; the question does not matter."""
        if k >= len(self._pool):
            return rng.permutation(len(self._pool)).tolist()
        if not self._chances:
            self._chances.append(self._found())
        return drawn(self._chances[0], k, rng)

    def _found(self) -> FloatArray:
        """Return the chance of each example, by the skills of the pool and those that are missing."""
        assert self._model is not None, "fit comes before select"
        skills = self.skills_of(self._pool)
        wrong = mistakes(self._pool[: self.most], shots=self.shots, model=self._model)
        counts = missed(skills, [*wrong, *[False] * (len(self._pool) - len(wrong))])
        self._model.note({"selector": "missing-skills", "mistakes": counts})
        return chances(skills, counts)
