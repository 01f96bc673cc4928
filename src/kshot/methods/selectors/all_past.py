"""Every example seen so far is a demonstration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.types import Example, Question
from kshot.methods.contracts import Selector
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class AllPast(Selector):
    """Show the first `limit` examples of the pool in the pool's order; `k` does not count.

    It counts as per query because it has to see every new example at once, though it ignores the query.
    As the order never changes, each prompt of a stream continues the one before, and a model that shares
    prefixes reads every example once. Several contexts are orders of the same examples, of which all but the first
    change when the past has doubled.

    Attributes:
        limit: The most examples to show, 1 or more.

    Source: Bornschein et al. (2025), https://arxiv.org/abs/2512.19879; Agarwal et al. (2024),
    Many-Shot In-Context Learning, https://arxiv.org/abs/2404.11018.
    Differs: examples beyond `limit` are not shown.
    """

    multi_label = True

    limit: int = setting(300, least=1, most=100_000)
    _n_pool: int = state(0)

    per_query = True
    sees_all = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember the pool's size."""
        return replace(self, _n_pool=len(pool))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the first `limit` indices, whatever `k` and the question are."""
        return list(range(min(self._n_pool, self.limit)))

    def most_contexts(self, n_pool: int, k: int) -> int:
        """Return how many orders there are of what is shown."""
        n = min(n_pool, self.limit)
        return super().most_contexts(n, n)
