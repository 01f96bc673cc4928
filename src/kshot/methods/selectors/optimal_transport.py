"""One set of demonstrations that optimal transport finds nearest to the rest of the past."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.types import Example, Question
from kshot.methods.selectors.embedded_pool import EmbeddedPool
from kshot.methods.selectors.ordered_sets import held_out_and_others
from kshot.methods.selectors.transport import transport_cost
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class OptimalTransport(EmbeddedPool):
    """Draw `n` random sets of `k` examples and keep the one that is cheapest to carry to examples of the past.

    cost(set) = min over T of sum_ij T_ij (1 - cos(x_i, y_j)), with even weights on both sides, the same held-out
    examples y for each set and never one of its members. It is what `ease` looks at before it asks the model, alone;
    the model is not asked. A tenth of a millisecond for each set; with k examples or fewer it is a random draw.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder.
        n: How many sets.
        queries: The most held-out examples, but at most half of what the demonstrations leave.

    Source: Wu et al. (2024), baseline OT, https://arxiv.org/abs/2405.16122.
    Differs: inputs are embedded without their outputs; 1,000 sets.
    """

    multi_label = True

    n: int = setting(1000, least=2, most=1_000_000)
    queries: int = setting(16, least=1, most=1000)

    _pool: tuple[Example, ...] = state(())

    draws = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Embed the pool, and remember which of it was made."""
        return replace(super().fit(pool, model=model, rng=rng), _pool=tuple(pool))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices (all of a smaller pool) in random order; the question does not matter."""
        assert self._embeddings is not None, "fit comes before select"
        held_out, others = held_out_and_others(self._pool, k, self.queries, rng=rng)
        if not held_out:
            return others[:k]
        costs = 1 - self._embeddings @ self._embeddings[held_out].T  # [n_pool, n_held_out]
        sets = [rng.permutation(others)[:k].tolist() for _ in range(self.n)]
        return sets[int(np.argmin(np.round([transport_cost(costs[chosen]) for chosen in sets], 9)))]
