"""Demonstrations that share the most words with the whole pool."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.types import Example, FloatArray, Question
from kshot.methods.contracts import Selector
from kshot.methods.selectors.nearest import nearest_last
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Bm25Major(Selector):
    """Take the `k` examples that a search for any of the pool's inputs finds best on average, the best one last.

    mean(d) = sum over the examples q of the pool of score(q, d) / N, with the score of `Bm25`. What the pool talks
    about most comes first, and nothing keeps the chosen ones apart: k near copies of one text can win. With 1000
    short texts it takes 0.1 s.

    Source: Zhang et al. (2025), baseline BM25-Major, https://arxiv.org/abs/2506.04579.
    Differs: inputs with their contexts, not inputs with outputs; `Bm25`'s words and idf. As in the authors' code the
    pool has each example as a query too: its own match counts as 1 of N, which prefers rare words in small pools.
    """

    multi_label = True

    _means: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    per_query = False

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Index the pool and search it for each of its own inputs, [n_pool]."""
        search = LexicalIndex([e.text for e in pool])
        total = sum((search.scores(e.text) for e in pool), np.zeros(len(pool)))
        return replace(self, _means=total / max(1, len(pool)))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` best, the best last, of equals the pool's first; no question matters."""
        return nearest_last(self._means, k)
