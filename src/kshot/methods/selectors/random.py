"""Demonstrations drawn at random: what every other choice has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import state
from kshot.core.types import Example, Question
from kshot.methods.balance import balanced
from kshot.methods.contracts import Selector
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Random(Selector):
    """Draw `k` distinct examples in random order.

    Attributes:
        balanced: Take as equal numbers of each output as the pool allows; chance decides which get one more.
        fresh: Draw anew for each query, instead of once for the task.

    Source: Brown et al. (2020), section 2.4, https://arxiv.org/abs/2005.14165.
    Differs: one draw serves the whole task unless `fresh`; `balanced` is ours.
    """

    multi_label = True

    balanced: bool = False
    fresh: bool = False
    _outputs: tuple[str, ...] = state(())

    draws = True

    @property
    def per_query(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether each query has its own draw."""
        return self.fresh

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember the pool's outputs."""
        return replace(self, _outputs=tuple(e.output for e in pool))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices (all of a smaller pool) in random order; the question does not matter."""
        if not self.balanced:
            return rng.permutation(len(self._outputs))[:k].tolist()
        return rng.permutation(np.array(balanced(self._outputs, k, rng=rng), dtype=int)).tolist()
