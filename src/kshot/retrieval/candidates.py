"""Which examples the language model is asked about, for each training query."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.encoders.encoder import Encoder
from kshot.retrieval.corpus import Item
from kshot.retrieval.lexical import LexicalIndex
from kshot.retrieval.retriever_settings import RetrieverSettings

Search = Callable[[Item], FloatArray]  # from a query to a score of each document of the pool, [n_pool]


@dataclass(frozen=True)
class Candidates:
    """A query with documents that may help, and what is known of each.

    Attributes:
        query: A training query.
        documents: None of them is the query itself.
        scores: One a document, once there are some: higher is better.
    """

    query: Item
    documents: tuple[Item, ...]
    scores: tuple[float, ...] = ()


def by_words(pool: Sequence[Item]) -> Search:
    """Return a search of documents by BM25, with which the first iteration begins."""
    index = LexicalIndex([item.document for item in pool])
    return lambda query: index.scores(query.query)


def by_meaning(pool: Sequence[Item], encoder: Encoder) -> Search:
    """Return a search of documents by the cosine of embeddings; equal texts tie."""
    embeddings = encoder.embed([item.document for item in pool]).astype(np.float64)  # [n_pool, dim]
    return lambda query: np.round(embeddings @ encoder.embed([query.query])[0], 9)


def check_enough(name: str, n: int, settings: RetrieverSettings) -> None:
    """Raise a UserError unless a task's `n` examples are more than candidates."""
    if n <= settings.candidates:
        raise UserError(
            f"A task must have more examples than candidates; '{name}' has {n} different ones, and candidates="
            f"{settings.candidates}. Use candidates={max(4, n - 1)}, or more examples."
        )


def draw(
    pool: Sequence[Item], queries: Sequence[Item], search: Search, settings: RetrieverSettings, *, seed: int
) -> list[Candidates]:
    """Draw for each query `settings.candidates` of the `settings.depth` best documents, at random.

    Documents that begin with the query's own text are no candidates: it is itself, or says the same. The order tells
    nothing.

    Args:
        pool: Documents.
        queries: Training queries, which may be in the pool.
        search: Scores the pool's documents.
        settings: How many.
        seed: For the draws; each query's depend on the seed and itself alone.

    """
    found = []
    for query in queries:
        begins = query.query
        order = np.argsort(-search(query), kind="stable")
        others = [pool[i] for i in order if pool[i].key != query.key and not pool[i].query.startswith(begins)]
        best = others[: settings.depth]
        drawn = generator(seed, "candidates", query.key).permutation(len(best))[: settings.candidates]
        found.append(Candidates(query, tuple(best[i] for i in drawn)))
    return found
