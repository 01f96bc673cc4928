"""Every example seen so far is a demonstration."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.errors import UserError
from kshot.core.methods import Judge
from kshot.core.types import Example


@dataclass(frozen=True)
class AllPast:
    """Show the first `limit` examples of the pool in the pool's order; `k` does not count.

    It counts as per query because it has to see every new example at once, though it ignores the query.
    As the order never changes, each prompt of a stream continues the one before, and a model that shares
    prefixes reads every example once.

    Attributes:
        limit: The most examples to show, 1 or more.

    Source: Bornschein et al. (2025), https://arxiv.org/abs/2512.19879; Agarwal et al. (2024),
    Many-Shot In-Context Learning, https://arxiv.org/abs/2404.11018.
    Differs: examples beyond `limit` are not shown.
    """

    limit: int = 300
    _n_pool: int = field(default=0, repr=False, compare=False)

    per_query = True

    def __post_init__(self):
        if self.limit < 1:
            raise UserError(f"all-past:limit must be 1 or more; got {self.limit}.")

    def fit(self, pool: Sequence[Example], *, judge: Judge, rng: np.random.Generator) -> Self:
        """Remember the pool's size."""
        return replace(self, _n_pool=len(pool))

    def select(self, query: Example | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the first `limit` indices, whatever `k` and the query are."""
        return list(range(min(self._n_pool, self.limit)))
