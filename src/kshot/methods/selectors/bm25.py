"""Demonstrations that share rare words with the query."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.errors import UserError
from kshot.core.methods import Judge
from kshot.core.types import Example
from kshot.methods.selectors.nearest import nearest_last, query_text
from kshot.retrieval.lexical import LexicalIndex


@dataclass(frozen=True)
class Bm25:
    """Take the `k` examples whose inputs score highest against the query's, the best one last.

    The score is that of `LexicalIndex`; the index is made anew at every step of a stream.

    Attributes:
        k1: How soon repeats of a word stop to count, 0 or more.
        b: How much long documents are marked down, 0 to 1.

    Source: Robertson and Zaragoza (2009), https://doi.org/10.1561/1500000019; for demonstrations:
    Rubin et al. (2022), https://arxiv.org/abs/2112.08633.
    Differs: Lucene's idf, which is never negative, and no factor k1 + 1, which changes no order.
    """

    k1: float = 1.5
    b: float = 0.75
    _index: LexicalIndex = field(default_factory=lambda: LexicalIndex([]), repr=False, compare=False)

    per_query = True

    def __post_init__(self):
        if not 0 <= self.k1 < float("inf"):
            raise UserError(f"bm25:k1 must be 0 or more; got {self.k1}.")
        if not 0 <= self.b <= 1:
            raise UserError(f"bm25:b must be in 0..1; got {self.b}.")

    def fit(self, pool: Sequence[Example], *, judge: Judge, rng: np.random.Generator) -> Self:
        """Index the pool's inputs with their contexts."""
        return replace(self, _index=LexicalIndex([e.text for e in pool], k1=self.k1, b=self.b))

    def select(self, query: Example | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` best, the best last; if no word is shared, the pool's first ones."""
        return nearest_last(self._index.scores(query_text(query, "bm25")), k)
