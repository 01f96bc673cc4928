"""Demonstrations that share rare words with the query."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import bm25s
import numpy as np

from kshot.core.errors import UserError
from kshot.core.protocols import Judge
from kshot.core.types import Example, FloatArray
from kshot.selection.nearest import nearest_last, query_text

_WORD = re.compile(r"\w+")


@lru_cache(maxsize=100_000)
def words(text: str) -> tuple[str, ...]:
    """Return the lower-case words of `text`; no stemming, no stop words."""
    return tuple(_WORD.findall(text.lower()))


@dataclass(frozen=True)
class Bm25:
    """Take the `k` examples whose inputs score highest against the query's, the best one last.

    score(q, d) = sum over the words w of q, repeats included, of
    ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|)),
    with N documents, n_w of them with w. Indexing 1000 short texts takes milliseconds, so it is done anew at
    every step of a stream.

    Attributes:
        k1: How soon repeats of a word stop to count, 0 or more.
        b: How much long documents are marked down, 0 to 1.

    Source: Robertson and Zaragoza (2009), https://doi.org/10.1561/1500000019; for demonstrations:
    Rubin et al. (2022), https://arxiv.org/abs/2112.08633.
    Differs: Lucene's idf, which is never negative, and no factor k1 + 1, which changes no order.
    """

    k1: float = 1.5
    b: float = 0.75
    _index: Any = field(default=None, repr=False, compare=False)
    _n_pool: int = field(default=0, repr=False, compare=False)

    per_query = True

    def __post_init__(self):
        if not 0 <= self.k1 < float("inf"):
            raise UserError(f"bm25:k1 must be 0 or more; got {self.k1}.")
        if not 0 <= self.b <= 1:
            raise UserError(f"bm25:b must be in 0..1; got {self.b}.")

    def fit(self, pool: Sequence[Example], *, judge: Judge, rng: np.random.Generator) -> Self:
        """Index the pool's inputs with their contexts."""
        return self.indexed(pool)

    def indexed(self, documents: Sequence[Example]) -> Self:
        """Index the inputs of `documents` with their contexts, for `scores`."""
        texts = [words(d.text) for d in documents]
        # Ids in order of appearance: bm25s' own come from a set, whose order changes between processes.
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(w, len(vocabulary)) for w in text] for text in texts]
        index = None
        if vocabulary:
            index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene", dtype="float64")
            index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return replace(self, _index=index, _n_pool=len(documents))

    def scores(self, text: str) -> FloatArray:
        """Return the score of each example of the pool against `text`, [n_pool]; 0 if no word is shared."""
        if self._index is None:
            return np.zeros(self._n_pool)
        return self._index.get_scores_from_ids(self._index.get_tokens_ids(list(words(text))))

    def select(self, query: Example | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` best, the best last; if no word is shared, the pool's first ones."""
        return nearest_last(self.scores(query_text(query, "bm25")), k)
