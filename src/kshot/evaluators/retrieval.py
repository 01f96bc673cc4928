"""How good the demonstrations of a selector are: alone, in the model's own ranking, and together in a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from kshot.core.errors import UserError
from kshot.core.models import WritingModel
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, GenerateRequest, Prompt
from kshot.learners.demonstrations import chosen, fitted
from kshot.measures.metrics import row_score
from kshot.measures.samples import measured, primary_metric
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.validate import without_duplicates

TOP, RANKED, RECALL_QUERIES = 3, 32, 50


@dataclass(frozen=True)
class RetrievalScores:
    """What was measured on each query.

    Attributes:
        one_shot: Log-probability in nats a token of the right answer after one demonstration, the mean over those
            retrieved, `[n]`.
        recall: How many of the three of 32 examples, the same for all queries, after which the model finds the right
            answer most probable, are among the `k` that are retrieved from these 32: 0 to 1, `[min(n, 50)]`. NaN where
            all of them are retrieved, which tells nothing: `k` is 32 or more, or as many as the pool has.
        scores: Of the answers after all `k` demonstrations, by the primary metric, `[n]`.
        same_label: In classification the share of demonstrations with the query's label, else NaN, `[n]`.
        metric: The primary metric over all queries with its 95 % interval.
        metric_name: Its name.
    """

    one_shot: FloatArray
    recall: FloatArray
    scores: FloatArray
    same_label: FloatArray
    metric: tuple[float, float, float]
    metric_name: str

    def summary(self) -> dict[str, Any]:
        """Return the means, as `kshot retriever evaluate --json` prints them."""
        value, low, high = self.metric
        return {
            "one_shot_nats": float(self.one_shot.mean()),
            "recall": None if np.isnan(self.recall).any() else float(self.recall.mean()),
            "metric": value,
            "metric_name": self.metric_name,
            "low": low,
            "high": high,
            "n": len(self.scores),
        }


def evaluate_retrieval(
    model: TaskModel, recipe: Recipe, pool: Sequence[Example], queries: Sequence[Example], *, seed: int
) -> RetrievalScores:
    """Measure what a per-query selector retrieves from a pool for queries with known answers.

    Answers are given as the paper's: labels by decoding that is constrained to them, choices by the mean
    log-probability of their tokens, texts greedily.

    Args:
        model: The language model on the task.
        recipe: A per-query selector and `k`.
        pool: Where demonstrations come from; repeated ones are left out.
        queries: At least one.
        seed: For random choices.

    Raises:
        UserError: The recipe does not choose for each query, or the pool has fewer examples than `k`.

    Source: Wang, Yang and Wei (2024), section 4, https://arxiv.org/abs/2307.07164.
    """
    selector, k = recipe.part("selector"), recipe.k
    if not recipe.per_query:
        raise UserError(f"A retriever must choose for each query; '{recipe.name}' does not (random:fresh=true does).")
    pool, _ = without_duplicates(pool)
    if len(pool) < k:
        raise UserError(f"The pool must have k = {k} examples or more; got {len(pool)}.")
    ready = fitted(selector, pool, model=model, seed=seed)
    questions = [query.question for query in queries]
    shown = [tuple(pool[i] for i in some) for (some,) in chosen(ready, pool, k, questions, seed=seed)]
    one_shot = _one_shot(model, shown, queries).mean(axis=1)
    some = [pool[i] for i in generator(seed, "ranked").permutation(len(pool))[:RANKED]]
    asked = queries[:RECALL_QUERIES]
    recall = [np.nan] * len(asked)
    if k < len(some):
        values = _one_shot(model, [some] * len(asked), asked)  # [n_asked, n_some]
        among = fitted(ready, some, model=model, seed=seed)
        found = chosen(among, some, k, questions[: len(asked)], seed=seed)
        best = [set(np.argsort(-row, kind="stable")[:TOP].tolist()) for row in values]
        recall = [len(own & set(indices)) / len(own) for own, (indices,) in zip(best, found, strict=True)]
    answers = _answers(
        model, [model.prompt(demos, query)[0] for demos, query in zip(shown, queries, strict=True)], queries
    )
    pairs = list(zip(queries, answers, strict=True))
    rows = [{"answer": text, "gold": q.output, "references": list(q.accepted)} for q, text in pairs]
    same = [float(np.mean([d.output == q.output for d in demos])) for demos, q in zip(shown, queries, strict=True)]
    name = model.task.metrics[0]
    return RetrievalScores(
        one_shot,
        np.array(recall),
        np.array([row_score(primary_metric(model.task), q.accepted, text) for q, text in pairs]),
        np.array(same, dtype=np.float64) if model.task.kind == "classification" else np.full(len(queries), np.nan),
        measured(model.task, rows, seed=seed)[name],
        name,
    )


def _one_shot(model: TaskModel, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
    """Return log-probabilities after each demonstration alone, `[n_queries, n_shown]`."""
    pairs = [(demo, query) for demos, query in zip(shown, queries, strict=True) for demo in demos]
    values = model.answer_log_probs([(demo,) for demo, _ in pairs], [query for _, query in pairs])
    return values.reshape(len(queries), -1)


def _answers(model: TaskModel, prompts: Sequence[Prompt], queries: Sequence[Example]) -> list[str]:
    model.progress.begin("answering", len(prompts))
    if model.task.is_open:
        return [g.text.strip() for g in model.generate(prompts, progress=model.progress.advance)]
    if model.task.kind == "classification":
        allowed = tuple(map(model.layout.answer, model.task.labels))
        requests = [GenerateRequest(p, model.answer_tokens, allowed=allowed) for p in prompts]
        return [
            g.text.strip()
            for g in cast(WritingModel, model.model).generate(
                requests, progress=model.progress.advance, ledger=model.ledger
            )
        ]
    candidates = [model.task.candidates(query) for query in queries]
    found = model.score(prompts, candidates, progress=model.progress.advance)
    answers = []
    for texts, row in zip(candidates, found, strict=True):
        lengths = [model.model.count_tokens(model.layout.answer(text)) for text in texts]
        answers.append(texts[int(np.argmax(row / np.array(lengths)))])
    return answers
