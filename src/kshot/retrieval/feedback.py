"""What the language model says of candidates: how probable it finds the query's answer after each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from kshot.retrieval.candidates import Candidates
from kshot.retrieval.corpus import Item
from kshot.retrieval.retriever_settings import RetrieverSettings
from kshot.taskmodel.taskmodel import TaskModel

PENALTY = 100.0  # nats; more than any mean log-probability


def one_shot(found: Sequence[Candidates], models: Mapping[str, TaskModel]) -> list[Candidates]:
    """Score each candidate by the query's answer after it alone, in nats a token.

    score(x, y, d) = 1 / |y| sum over the tokens t of y of log p(y_t given d, x, y_<t). All queries of a task are asked
    at once, so that a candidate is read once, and the queries that drew it are packed after it.

    Args:
        found: Queries with their candidates.
        models: The language model on each task, by the task's name.

    Source: Wang, Yang and Wei (2024), section 3.1, https://arxiv.org/abs/2307.07164; the mean over tokens is that of
    the official code.
    Differs: the prompt is the task's own, with its instruction; tokens include the one that ends the answer.
    """
    by_task = {name: list(rows) for name, rows in groupby(sorted(found, key=_task_name), key=_task_name)}
    scored: dict[str, Candidates] = {}
    for name, rows in by_task.items():
        pairs = [(row.query.example, (document.example,)) for row in rows for document in row.documents]
        values = iter(models[name].answer_log_probs([shown for _, shown in pairs], [query for query, _ in pairs]))
        for row in rows:
            scored[row.query.key] = replace(row, scores=tuple(float(next(values)) for _ in row.documents))
    return [scored[row.query.key] for row in found]


def with_rules(found: Sequence[Candidates], settings: RetrieverSettings) -> list[Candidates]:
    """Return the candidates with those marked down that another task or another label rules out."""
    return [
        replace(
            row,
            scores=tuple(
                score - PENALTY * n_broken(row.query, document, settings)
                for score, document in zip(row.scores, row.documents, strict=True)
            ),
        )
        for row in found
    ]


def standardised(row: Candidates, sharpness: float) -> Candidates:
    """Return a query's candidates with scores of mean 0 and standard deviation `sharpness` over those within the rules.

    Those that break a rule keep their distance.
    """
    scores = np.array(row.scores)
    within = scores > -PENALTY
    some = scores[within]
    if not len(some):
        return row
    scaled = (scores - some.mean()) / max(float(some.std()), 1e-6) * sharpness
    return replace(row, scores=tuple(np.where(within, scaled, scores).tolist()))


def n_broken(query: Item, document: Item, settings: RetrieverSettings) -> int:
    """Return how many of the rules a candidate breaks; a label of another task is another label."""
    is_other = document.task.name != query.task.name
    wrong_label = query.task.kind == "classification" and document.answer != query.answer
    return (settings.other_task_rule and is_other) + (settings.label_rule and wrong_label)


def _task_name(row: Candidates) -> str:
    return row.query.task.name
