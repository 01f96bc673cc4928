"""From ranked candidates to what encoders learn from: a positive and negatives, others in each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.seeding import generator
from kshot.retrieval.candidates import Candidates
from kshot.retrieval.corpus import Item
from kshot.retrieval.feedback import PENALTY
from kshot.retrieval.retriever_settings import RetrieverSettings

REWARD_NEGATIVES, RETRIEVER_NEGATIVES = 7, 3


@dataclass(frozen=True)
class Group:
    """A query with one document that should come first and others that should not.

    Attributes:
        query: The query.
        documents: The positive, then the negatives.
        scores: What each is worth, `[n_documents]`.
    """

    query: Item
    documents: tuple[Item, ...]
    scores: tuple[float, ...]


def usable(found: Sequence[Candidates]) -> list[Candidates]:
    """Return the queries that can be learnt from: with more than three candidates, of which three break no rule."""
    return [row for row in found if len(row.documents) > 3 and sorted(row.scores, reverse=True)[2] > -PENALTY]


def groups(
    found: Sequence[Candidates],
    settings: RetrieverSettings,
    pool: Sequence[Item],
    *,
    n_negatives: int,
    epoch: int,
    seed: int,
    same_label: bool = True,
) -> list[Group]:
    """Return a group for each query, in an order of its own for each epoch.

    In epoch e the positive is number (e + seed) of the best `settings.positives` within the rules; the negatives are
    the next `n_negatives` of the worst `settings.negatives`, whose order is drawn once. A positive is never a negative.
    Where there are too few, documents of the pool drawn at random fill the group.

    Args:
        found: Scored candidates.
        settings: How many best and worst.
        pool: What fills short groups.
        n_negatives: Negatives in a group.
        epoch: Counted from 0.
        seed: For orders and fillings.
        same_label: Whether a negative may have the query's label, where it is of the same classification.

    Source: Wang, Yang and Wei (2024), appendix, https://arxiv.org/abs/2307.07164, and its official code.
    """
    rows = []
    for row in found:
        rng = generator(seed, "negatives", row.query.key)
        order = sorted(range(len(row.documents)), key=lambda i, row=row: -row.scores[i])
        n_within = sum(score > -PENALTY for score in row.scores)  # what breaks a rule is no positive
        n_best = max(1, min(settings.positives, n_within, len(order) - 1))  # of two or more one is worse
        best, rest = order[:n_best], order[n_best:][-settings.negatives :]
        if not same_label:
            rest = [i for i in rest if not _equal_label(row.query, row.documents[i])]
        rest = [rest[i] for i in rng.permutation(len(rest))]
        positive = best[(epoch + seed) % len(best)]
        start = epoch * n_negatives
        taken = [rest[(start + i) % len(rest)] for i in range(min(n_negatives, len(rest)))]
        chosen = [positive, *taken]
        documents, scores = [row.documents[i] for i in chosen], [row.scores[i] for i in chosen]
        known = {row.query.key, *(d.key for d in row.documents)}
        others = [item for item in pool if item.key not in known] or [row.documents[i] for i in order[len(best) :]]
        if short := n_negatives - len(taken):
            lots = generator(seed, "filling", row.query.key, epoch).permutation(len(others))
            documents += [others[lots[i % len(lots)]] for i in range(short)]
            scores += [-PENALTY] * short
        rows.append(Group(row.query, tuple(documents), tuple(scores)))
    return [rows[i] for i in generator(seed, "epoch", epoch).permutation(len(rows))]


def _equal_label(query: Item, document: Item) -> bool:
    same_task = query.task.name == document.task.name
    return same_task and query.task.kind == "classification" and query.answer == document.answer
