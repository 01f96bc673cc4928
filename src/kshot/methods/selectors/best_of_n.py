"""The best of several random sets, as the language model itself sees it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.types import Example
from kshot.methods.hands import ranked
from kshot.methods.selectors.ordered_sets import held_out_and_others, total_bits
from kshot.methods.selectors.ranked_sets import RanksSets
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class BestOfN(RanksSets):
    """Draw `n` random sets of `k` examples and keep the one after which past outputs cost the fewest bits.

    bits(set) = sum over the held-out examples of - log2 p(output given set and input), the same held-out examples
    for every set and never one of its members. Up to `queries` are held out, but at most half of what the
    demonstrations leave, so that the sets can differ: with 32 examples and k = 16 it is 8, and the sets come from
    the other 24. With k examples or fewer nothing can be held out, and it is a random draw. The sets have an order
    each, which is chosen with them.

    Costs n x queries scorings at each refit (at 4, 8, 16, … examples), 80 by default; a model that shares prefixes
    reads each set once.

    Attributes:
        n: How many sets, 2 or more.
        queries: The most held-out examples, 1 or more.

    Source: Zhang et al. (2025), baseline Best-of-5, https://arxiv.org/abs/2506.04579. How far random sets and their
    orders lie apart: Zhao et al. (2021), https://arxiv.org/abs/2102.09690, and Lu et al. (2022),
    https://arxiv.org/abs/2104.08786.
    Differs: 16 held-out examples, the same for each set, instead of up to 1000 that are not in the set; the model
    that answers judges unless another one is named.
    """

    multi_label = True

    n: int = setting(5, least=2, most=10_000, hint="For one random set use 'random'.")
    queries: int = setting(16, least=1, most=100_000)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()

    needs = frozenset({Capability.SCORE})

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: the sets are scored once their size is known."""
        return replace(self, _pool=tuple(pool), _model=model)

    @property
    def n_tried(self) -> int:
        """How many sets are tried."""
        return self.n

    def ranked(self, k: int, *, rng: np.random.Generator) -> list[list[int]]:
        """Return the sets, the best first; one that is drawn where nothing can be held out."""
        held_out, others = held_out_and_others(self._pool, k, self.queries, rng=rng)
        if not held_out:
            return [others[:k]]
        sets = [rng.permutation(others)[:k].tolist() for _ in range(self.n)]
        assert self._model is not None, "fit comes before select"
        return ranked(sets, total_bits(sets, held_out, self._pool, self._model))
