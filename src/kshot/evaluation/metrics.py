"""Metrics of answers against gold labels, each a formula over the table of (gold, answer) counts.

Counts are all that these metrics depend on, so a bootstrap resample costs one count instead of one call of
scikit-learn; the tests hold every formula against scikit-learn's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError, did_you_mean

Confusion = NDArray[np.integer]


@dataclass(frozen=True)
class Metric:
    """A metric of label answers.

    Attributes:
        formula: Value from the confusion counts [n_labels, n_labels], gold in rows, answers in columns, and
            the index of the positive label, or -1.
        row: Score in 0..1 of one (gold, answer), if the metric is the mean of such scores.
        lowest: The least value it can have; the highest is 1.
        needs_positive: It asks which label is the positive one.
    """

    formula: Callable[[Confusion, int], float]
    row: Callable[[str, str], float] | None = None
    lowest: float = 0.0
    needs_positive: bool = False


def _ratio(part: NDArray, whole: NDArray) -> NDArray:
    """Return part / whole; 0 where both are 0, as scikit-learn's zero_division=0."""
    return part / np.maximum(whole, 1)


def _accuracy(counts: Confusion, positive: int) -> float:
    return float(np.trace(counts) / counts.sum())


def _f1_by_label(counts: Confusion) -> NDArray:
    return _ratio(2 * np.diag(counts), counts.sum(0) + counts.sum(1))


def _f1(counts: Confusion, positive: int) -> float:
    return float(_f1_by_label(counts)[positive])


def _macro_f1(counts: Confusion, positive: int) -> float:
    occurs = (counts.sum(0) + counts.sum(1)) > 0
    return float(_f1_by_label(counts)[occurs].mean())


def _macro_recall(counts: Confusion, positive: int) -> float:
    gold = counts.sum(1)
    return float(_ratio(np.diag(counts), gold)[gold > 0].mean())


def _matthews(counts: Confusion, positive: int) -> float:
    table = counts.astype(np.float64)  # the product of squares exceeds int64 at some 50,000 rows
    n, gold, answers = table.sum(), table.sum(1), table.sum(0)
    spread = (n * n - gold @ gold) * (n * n - answers @ answers)
    return float((n * np.trace(table) - gold @ answers) / np.sqrt(spread)) if spread > 0 else 0.0


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, row=lambda gold, answer: float(gold == answer)),
    "macro_f1": Metric(_macro_f1),
    "f1": Metric(_f1, needs_positive=True),
    "macro_recall": Metric(_macro_recall),
    "matthews": Metric(_matthews, lowest=-1.0),
}


def get_metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises:
        UserError: There is none.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric '{name}'.{did_you_mean(name, METRICS)}")
    return METRICS[name]


def statistic(
    name: str,
    gold: Sequence[str],
    answers: Sequence[str],
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
) -> Callable[[NDArray[np.integer]], float]:
    """Return the function from indices of rows, repeats allowed, to the metric over them; no rows give NaN.

    macro_f1 averages over the labels that occur among the rows' gold labels or answers (scikit-learn's
    default), macro_recall over those that occur among the gold labels (its balanced accuracy): a label that
    the rows do not contain says nothing about the answers.

    Args:
        name: A name of `METRICS`.
        gold: The right answer of each row.
        answers: The given answer of each row, as many.
        labels: The task's labels; empty where rows bring their own.
        positive_label: The label that f1 counts.

    Raises:
        UserError: Unknown metric, or f1 without a positive label among the labels.
    """
    metric = get_metric(name)
    if metric.needs_positive and positive_label not in labels:
        raise UserError(
            f"the metric {name} needs 'positive_label' in task.json to be one of {', '.join(labels)}; "
            f"got {positive_label}."
        )
    codes = {label: i for i, label in enumerate(dict.fromkeys([*labels, *gold, *answers]))}
    size = len(codes)
    cells = np.array([codes[g] * size + codes[a] for g, a in zip(gold, answers, strict=True)], dtype=np.int64)
    positive = codes.get(positive_label or "", -1)

    def value(rows: NDArray[np.integer]) -> float:
        if len(rows) == 0:
            return float("nan")
        counts = np.bincount(cells[rows], minlength=size * size).reshape(size, size)
        return metric.formula(counts, positive)

    return value


def compute(
    name: str,
    gold: Sequence[str],
    answers: Sequence[str],
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
) -> float:
    """Return the metric over all rows; see `statistic` for the arguments. No rows give NaN."""
    value = statistic(name, gold, answers, labels=labels, positive_label=positive_label)
    return value(np.arange(len(gold)))
