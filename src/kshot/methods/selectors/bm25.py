"""Demonstrations that share rare words with the query."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, Question
from kshot.methods.contracts import Selector
from kshot.methods.selectors.nearest import nearest_last, question_text
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Bm25(Selector):
    """Take the `k` examples whose inputs score highest against the query's, the best one last.

    The score is that of `LexicalIndex`; the index is made anew at every step of a stream.

    Attributes:
        k1: How soon repeats of a word stop to count, 0 or more.
        b: How much long documents are marked down, 0 to 1.

    Source: Robertson and Zaragoza (2009), https://doi.org/10.1561/1500000019; for demonstrations:
    Rubin et al. (2022), https://arxiv.org/abs/2112.08633.
    Differs: Lucene's idf, which is never negative, and no factor k1 + 1, which changes no order.
    """

    multi_label = True

    k1: float = setting(1.5, least=0)
    b: float = setting(0.75, least=0, most=1)
    _index: LexicalIndex = field(default_factory=lambda: LexicalIndex([]), repr=False, compare=False)

    per_query = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Index the pool's inputs with their contexts."""
        return replace(self, _index=LexicalIndex([e.text for e in pool], k1=self.k1, b=self.b))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of the `k` best, the best last; if no word is shared, the pool's first ones."""
        return nearest_last(self._index.scores(question_text(question, "bm25")), k)
