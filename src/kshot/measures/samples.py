"""What predictions were worth: a row for each, and what rows sum up to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Example, Prediction, Task
from kshot.measures.answer_sources import came_from
from kshot.measures.intervals import interval
from kshot.measures.metrics import get_metric, metric_for, row_score, statistic
from kshot.measures.ordered import as_answered
from kshot.measures.probabilities import code_length_bits

SUMMARY = (
    "metric",
    "metric_low",
    "metric_high",
    "metric_n",
    "bits_per_example",
    "n",
    "fit_seconds",
    "query_tokens",
    "query_ms",
)


OF_ONE_LABEL = ("macro_recall", "matthews")  # that would take each set for a label


def primary_metric(task: Task) -> str:
    """Return the metric that scores the task: its first one; `exact_match` of kind qa is SQuAD's, with its rules."""
    return metric_for(task.metrics[0], task.kind)


def check_metrics(task: Task) -> None:
    """Raise a UserError unless the task's metrics are known and the primary one has what it needs."""
    for name in task.metrics:
        if task.is_multi_label and name in OF_ONE_LABEL:
            raise UserError(
                f"the metric {name} needs one right label a row; the rows of '{task.name}' have sets of labels. Name "
                "another metric, such as micro_f1 or macro_f1."
            )
        if get_metric(name).needs_order and not task.ordered:
            raise UserError(
                f"the metric {name} needs the order of the labels, the lowest first; '{task.name}' has none; write it "
                'into task.json, such as "order": ["low", "medium", "high"], or name another metric.'
            )
    if get_metric(primary_metric(task)).smaller_is_better:
        raise UserError(
            f"the first metric of a task must be one of which more is better, as recipes are chosen by it; got "
            f'{task.metrics[0]}; write it behind another, such as "metrics": ["quadratic_kappa", "mae"].'
        )
    statistic(primary_metric(task), [], [], labels=task.labels, positive_label=task.positive_label)


def score_of(task: Task, example: Example, answer: str) -> float:
    """Return the score of one answer by the primary metric; of ordered labels it is how near the right one it is."""
    return row_score(primary_metric(task), example.accepted, answer, task.labels if task.ordered else ())


def sample_row(task: Task, recipe: str, position: int, example: Example, prediction: Prediction) -> dict[str, Any]:
    """Return what is kept of one prediction: the prediction, and how it compares with the right answer.

    `score` is that of the primary metric for this row alone; None where no text was generated. `came_from` is there
    where the example tells an answer from its passage from one from memory.
    """
    prediction = as_answered(task, prediction)
    answer = prediction.answer
    source = came_from(answer, example)
    return {
        "recipe": recipe,
        "position": position,
        "gold": example.output,
        "references": list(example.accepted),
        "score": None if answer is None else score_of(task, example, answer),
        "bits": code_length_bits(task, example.output, prediction),
        **({"came_from": source} if source else {}),
        **vars(prediction),
    }


def measured(task: Task, rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return (value, low, high) at 95 % of each of the task's metrics over the rows that have an answer.

    A further metric that needs a positive label is left out where the task names none.
    """
    answered = [r for r in rows if r["answer"] is not None]
    references, answers = [r["references"] for r in answered], [r["answer"] for r in answered]
    labels = _labels(task, answered)
    found = {}
    for name in task.metrics:
        metric = metric_for(name, task.kind)
        if name == task.metrics[0] or task.positive_label or not get_metric(metric).needs_positive:
            rng = generator(seed, "bootstrap")
            positive = task.positive_label
            found[name] = interval(metric, references, answers, labels=labels, positive_label=positive, rng=rng)
    return found


def metric_of(task: Task, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the primary metric over rows that all have an answer."""
    references, answers = [r["references"] for r in rows], [r["answer"] for r in rows]
    value = statistic(
        primary_metric(task), references, answers, labels=_labels(task, rows), positive_label=task.positive_label
    )
    return value(np.arange(len(rows)))


def _labels(task: Task, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the task's labels, or those that occur."""
    return task.labels or tuple(sorted({text for r in rows for text in (r["gold"], r["answer"])}))


def summarise(task: Task, rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Return metric with its 95 % interval, bits per example, number, and cost per query of a recipe's rows.

    The metric is over the `metric_n` rows that have an answer: all of them, or in open tasks those whose text was
    generated. Tokens and milliseconds are means over all rows: early in a stream prompts are shorter than those of
    the model that is handed over.

    Returns:
        The keys of `SUMMARY`, and `metrics`: all that `measured` gives.
    """
    metrics = measured(task, rows, seed=seed)
    n, n_answered = len(rows), sum(r["answer"] is not None for r in rows)
    bits = sum(r["bits"] for r in rows) / n
    fit_seconds = sum(r["fit_seconds"] for r in rows)
    tokens = sum(r["prompt_tokens"] for r in rows) / n
    query_ms = 1000 * sum(r["seconds"] for r in rows) / n
    values = (*metrics[task.metrics[0]], n_answered, bits, n, fit_seconds, tokens, query_ms)
    return dict(zip(SUMMARY, values, strict=True)) | {"metrics": metrics}
