"""What selectors share that try whole sets of demonstrations: the best is shown, or the best few are."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.types import Question
from kshot.methods.contracts import Selector
from kshot.methods.hands import different, filled


@dataclass(frozen=True)
class RanksSets(Selector):
    """Chooses for the whole task among sets that it tries."""

    per_query = False
    draws = True

    @property
    @abstractmethod
    def n_tried(self) -> int:
        """How many sets are tried."""

    @abstractmethod
    def ranked(self, k: int, *, rng: np.random.Generator) -> list[list[int]]:
        """Return the sets of at most `k` that were tried, the best first; at least one, whatever the pool."""

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the best set; the question does not matter."""
        return self.ranked(k, rng=rng)[0]

    def contexts(
        self, questions: Sequence[Question | None], k: int, n: int, *, rngs: Sequence[Sequence[np.random.Generator]]
    ) -> list[list[list[int]]]:
        """Return the `n` best sets; orders of them where there are not so many."""
        return [different(filled(self.ranked(k, rng=some[0]), n), some) for some in rngs]

    def most_contexts(self, n_pool: int, k: int) -> int:
        """Return how many sets there are to choose from."""
        return min(self.n_tried, super().most_contexts(n_pool, k))
