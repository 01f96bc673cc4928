"""Metrics of answers against the accepted outputs of each row.

A metric of labels is a formula over the table of (gold, answer) counts; every other one is a formula over statistics
that add up over rows, of which a mean is the simplest. So a bootstrap resample costs one count or one weighted sum.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError, did_you_mean
from kshot.core.label_sets import indicator, read
from kshot.core.types import Kind
from kshot.measures import text_metrics as text
from kshot.measures.text_metrics import References

Confusion = NDArray[np.integer]
RowScore = Callable[[References, str], float]
OfRows = Callable[[NDArray[np.integer]], float]


@dataclass(frozen=True)
class Rows:
    """What is to be measured: the accepted outputs and the answer of each row, and the task's labels."""

    references: Sequence[References]
    answers: Sequence[str]
    labels: Sequence[str]
    positive_label: str | None


@dataclass(frozen=True)
class Metric:
    """How one row is scored, and how many are.

    Attributes:
        row: Score in 0..1 of one row, from its references and its answer.
        prepare: Returns the function from indices of some of the rows, at least one, to the metric over them.
        zero_one: The metric is the mean of row scores that are 0 or 1.
        lowest: The least value it can have.
        highest: The most it can be with so many labels.
        needs_positive: It asks which label is the positive one.
        needs_order: It asks how far apart labels are, so they must stand in their order.
        smaller_is_better: It measures errors, and so cannot be the primary one.
        readable: Whether an answer can be compared with this reference.
        readable_form: What makes a reference readable, to follow "must".
    """

    row: RowScore
    prepare: Callable[[Rows], OfRows]
    zero_one: bool = False
    lowest: float = 0.0
    highest: Callable[[int], float] = lambda n_labels: 1.0
    needs_positive: bool = False
    needs_order: bool = False
    smaller_is_better: bool = False
    readable: Callable[[str], bool] = lambda reference: True
    readable_form: str = ""


def _ratio(part: NDArray, whole: NDArray) -> NDArray:
    """Return part / whole; 0 where both are 0, as scikit-learn's zero_division=0."""
    return part / np.maximum(whole, 1)


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
    n = float(counts.sum())  # floats, as the product of squares exceeds int64 at some 50,000 rows
    gold, answers = counts.sum(1).astype(np.float64), counts.sum(0).astype(np.float64)
    spread = (n * n - gold @ gold) * (n * n - answers @ answers)
    return float((n * np.trace(counts) - gold @ answers) / np.sqrt(spread)) if spread > 0 else 0.0


def _distances(n: int) -> NDArray[np.float64]:
    """Return how far apart n labels in their order are: |i - j|, [n, n]."""
    places = np.arange(n, dtype=np.float64)
    return np.abs(places[:, None] - places)


def _quadratic_kappa(counts: Confusion, positive: int) -> float:
    """Return 1 - the mean squared distance / that of answers drawn without regard to the row; 0 where that is 0.

    Source: Cohen (1968), "Weighted kappa", https://doi.org/10.1037/h0026256, with squared distances. Differs: nothing.
    """
    squared = _distances(len(counts)) ** 2
    gold, answers = counts.sum(1).astype(np.float64), counts.sum(0).astype(np.float64)
    expected = gold @ squared @ answers / max(1.0, counts.sum())
    return float(1 - (squared * counts).sum() / expected) if expected > 0 else 0.0


def _mae(counts: Confusion, positive: int) -> float:
    return float((_distances(len(counts)) * counts).sum() / counts.sum())


def _equal(references: References, answer: str) -> float:
    return float(references[0] == answer)


def _of_labels(
    formula: Callable[[Confusion, int], float], *, lowest: float = 0.0, needs_positive: bool = False
) -> Metric:
    """Make a metric of labels from its formula over confusion counts and the index of the positive label, or -1.

    The counts are [n_labels, n_labels], gold in rows, answers in columns. Only a row's first reference counts: the
    label.
    """

    def prepare(rows: Rows) -> OfRows:
        gold = [references[0] for references in rows.references]
        codes = {label: i for i, label in enumerate(dict.fromkeys([*rows.labels, *gold, *rows.answers]))}
        size = len(codes)
        cells = np.array([codes[g] * size + codes[a] for g, a in zip(gold, rows.answers, strict=True)], dtype=np.int64)
        positive = codes.get(rows.positive_label or "", -1)
        return lambda i: formula(np.bincount(cells[i], minlength=size * size).reshape(size, size), positive)

    return Metric(_equal, prepare, lowest=lowest, needs_positive=needs_positive)


def _prepare_sums(
    statistics: Callable[[References, str], Sequence[float]], formula: Callable[[Sequence[float]], float]
) -> Callable[[Rows], OfRows]:
    def prepare(rows: Rows) -> OfRows:
        pairs = zip(rows.references, rows.answers, strict=True)
        table = np.array([statistics(references, answer) for references, answer in pairs], dtype=np.float64)
        # as weights [n_rows] @ table [n_rows, n_statistics], which is much quicker than table[i].sum(0)
        return lambda i: formula((np.bincount(i, minlength=len(table)) @ table).tolist())

    return prepare


def _of_sums(
    statistics: Callable[[References, str], Sequence[float]],
    formula: Callable[[Sequence[float]], float],
    row: RowScore | None = None,
) -> Metric:
    """Make a metric from the statistics of a row and a formula over their sums, which also scores a single row."""
    return Metric(
        row or (lambda references, answer: formula(statistics(references, answer))), _prepare_sums(statistics, formula)
    )


def _mean(row: RowScore, *, zero_one: bool = False) -> Metric:
    """Make a metric that is the mean of the rows' scores."""
    prepare = _prepare_sums(lambda references, answer: (row(references, answer), 1.0), lambda sums: sums[0] / sums[1])
    return Metric(row, prepare, zero_one=zero_one)


def _of_pieces(pattern: re.Pattern[str], form: str) -> Metric:
    """Make a micro F1 over the pieces of lists that `pattern` reads."""
    return replace(
        _of_sums(partial(text.piece_statistics, pattern), text.piece_f1),
        readable=lambda reference: None not in text.pieces(pattern, reference),
        readable_form=f"be a list such as '{form}', or none",
    )


def _of_sets(formula: Callable[[NDArray, NDArray, NDArray], float]) -> Metric:
    """Make a metric of sets of labels from its formula over true positives, false positives and false negatives.

    Each of these counts is `[n_labels]`, over the task's labels; a single row is scored by its own counts.
    """

    def prepare(rows: Rows) -> OfRows:
        gold, answers = _indicators(rows)
        cells = np.concatenate([gold & answers, ~gold & answers, gold & ~answers], axis=1).astype(np.float64)

        def of_rows(i: NDArray[np.integer]) -> float:
            return formula(*np.split(np.bincount(i, minlength=len(cells)) @ cells, 3))

        return of_rows

    def row(references: References, answer: str) -> float:
        gold, given = set(read(references[0])), set(read(answer))
        n_both = len(gold & given)
        # of one row alone the sum over labels, as where no label is right and none is said all of it is right
        whole = len(gold) + len(given)
        return 2 * n_both / whole if whole else 1.0

    return Metric(row, prepare)


def _indicators(rows: Rows) -> tuple[NDArray, NDArray]:
    """Return which labels are right in each row, and which are given, `[n_rows, n_labels]`: the task's, then others."""
    pairs = [(references[0], answer) for references, answer in zip(rows.references, rows.answers, strict=True)]
    seen = [label for pair in pairs for text in pair for label in read(text)]
    labels = tuple(dict.fromkeys([*rows.labels, *seen]))
    return indicator([gold for gold, _ in pairs], labels), indicator([answer for _, answer in pairs], labels)


def _f1_of_counts(right: NDArray, wrong: NDArray, missed: NDArray) -> NDArray:
    return _ratio(2 * right, 2 * right + wrong + missed)


def _micro_f1_of_sets(right: NDArray, wrong: NDArray, missed: NDArray) -> float:
    return float(_f1_of_counts(right.sum(), wrong.sum(), missed.sum()))


def _macro_f1_of_sets(right: NDArray, wrong: NDArray, missed: NDArray) -> float:
    return float(_f1_of_counts(right, wrong, missed).mean())


def _prepare_f1_of_sets(rows: Rows) -> OfRows:
    """Prepare the F1 of one label, the positive one: whether it is in the set."""

    def statistics(references: References, answer: str) -> Sequence[float]:
        is_gold, is_given = (rows.positive_label in read(text) for text in (references[0], answer))
        return is_gold and is_given, is_gold + is_given

    return _prepare_sums(statistics, lambda sums: 2 * sums[0] / max(sums[1], 1))(rows)


def _prepare_hamming(rows: Rows) -> OfRows:
    right = np.equal(*_indicators(rows)).mean(axis=1)
    return lambda i: float(right[i].mean())


METRICS: dict[str, Metric] = {
    "accuracy": _mean(_equal, zero_one=True),
    "macro_f1": _of_labels(_macro_f1),
    "f1": _of_labels(_f1, needs_positive=True),
    "micro_f1": _of_sets(_micro_f1_of_sets),
    "set_f1": replace(_of_sets(_micro_f1_of_sets), prepare=_prepare_f1_of_sets, needs_positive=True),
    "set_macro_f1": _of_sets(_macro_f1_of_sets),
    "hamming": replace(_of_sets(_micro_f1_of_sets), prepare=_prepare_hamming),
    "macro_recall": _of_labels(_macro_recall),
    "matthews": _of_labels(_matthews, lowest=-1.0),
    "quadratic_kappa": replace(_of_labels(_quadratic_kappa, lowest=-1.0), needs_order=True),
    "mae": replace(_of_labels(_mae), needs_order=True, smaller_is_better=True, highest=lambda n: max(1.0, n - 1.0)),
    "exact_match": _mean(text.exact_match, zero_one=True),
    "squad_exact_match": _mean(text.squad_exact_match, zero_one=True),
    "set_exact_match": _mean(text.set_exact_match, zero_one=True),
    "exact_match_number": replace(
        _mean(text.exact_match_number, zero_one=True),
        readable=lambda reference: text.last_number(reference) is not None,
        readable_form="hold a number in digits, such as 42 or -1,200.5",
    ),
    "smape_score": replace(
        _mean(text.smape_score),
        readable=text.is_number_list,
        readable_form="be a list of numbers, such as 1.5, 2, 3",
    ),
    "squad_f1": _mean(text.squad_f1),
    "rouge1": _mean(text.rouge1),
    "rougeL": _mean(text.rouge_l),
    "bleu": _of_sums(text.bleu_statistics, text.bleu, row=text.sentence_bleu),
    "chrf": _of_sums(text.chrf_statistics, text.chrf),
    "entity_f1": _of_pieces(text.ENTITY, "entity [type]; entity [type]"),
    "slot_f1": _of_pieces(text.SLOT, "slot=value; slot=value"),
}


def get_metric(name: str) -> Metric:
    """Return the metric called `name`.

    Raises:
        UserError: There is none.
    """
    if name not in METRICS:
        raise UserError(f"there is no metric '{name}'.{did_you_mean(name, METRICS)}")
    return METRICS[name]


def metric_for(name: str, kind: Kind) -> str:
    """Return the metric that `name` means for tasks of a kind: exact_match is squad_exact_match for qa.

    Of sets of labels f1 is that of the positive label, and macro_f1 the mean over the labels, of each of which it is
    right or wrong that it is in the set; of one right label a row micro_f1 and hamming are the accuracy, as in
    scikit-learn, and "|" in a label parts nothing.
    Published exact matches of question answering all forgive case, punctuation and articles; those of parsing
    and of word functions, where "A" and "a" may differ, do not.
    """
    if (name, kind) == ("exact_match", "qa"):
        return "squad_exact_match"
    if kind == "multi_label":
        return f"set_{name}" if name in ("f1", "macro_f1") else name
    of_one = {"micro_f1": "accuracy", "hamming": "accuracy", "set_f1": "f1", "set_macro_f1": "macro_f1"}
    return of_one.get(name, name) if kind in ("classification", "multiple_choice") else name


def check_references(name: str, example_id: str, references: References) -> None:
    """Refuse a row that no answer could be compared with.

    Raises:
        UserError: Unknown metric, or one of the references has not the form that the metric reads.
    """
    metric = get_metric(name)
    for reference in references:
        if not metric.readable(reference):
            raise UserError(
                f"row {example_id}: with the metric {name} every output and reference must {metric.readable_form}; "
                f"got {reference!r}. Correct the row, or name another metric in 'metrics' in task.json."
            )


def row_score(name: str, references: References, answer: str, labels: Sequence[str] = ()) -> float:
    """Return the score of one row, in 0..1; more is better, whatever the metric.

    A metric of labels scores 1 for the right label, else 0; one of ordered labels, where these are given, 1 less the
    distance as a share of the longest one. bleu, chrf, entity_f1 and slot_f1 take the row for the whole corpus, of
    which bleu is the sentence version.

    Args:
        name: A name of `METRICS`.
        references: The accepted outputs; the first is the row's `output`. The best match counts.
        answer: The given answer.
        labels: The task's labels, in their order where they have one.
    """
    metric = get_metric(name)
    if metric.needs_order and len(labels) > 1 and {references[0], answer} <= {*labels}:
        return 1 - abs(labels.index(references[0]) - labels.index(answer)) / (len(labels) - 1)
    return metric.row(references, answer)


def statistic(
    name: str,
    references: Sequence[References],
    answers: Sequence[str],
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
) -> OfRows:
    """Return the function from indices of rows, repeats allowed, to the metric over them; no rows give NaN.

    macro_f1 averages over the labels that occur among the rows' gold labels or answers (scikit-learn's
    default), macro_recall over those that occur among the gold labels (its balanced accuracy): a label that
    the rows do not contain says nothing about the answers.

    Args:
        name: A name of `METRICS`.
        references: The accepted outputs of each row, at least one; metrics of labels use the first.
        answers: The given answer of each row, as many.
        labels: The task's labels; empty where rows bring their own, or there are none.
        positive_label: The label that f1 counts.

    Raises:
        UserError: Unknown metric, or f1 without a positive label among the labels.
    """
    metric = get_metric(name)
    if metric.needs_positive and positive_label not in labels:
        if not labels:
            raise UserError(f"the metric {name} is for classification, as it counts one of the labels; name another.")
        raise UserError(
            f"the metric {name} needs 'positive_label' in task.json to be one of {', '.join(labels)}; "
            f"got {positive_label}."
        )
    of_rows = metric.prepare(Rows(references, answers, labels, positive_label))
    return lambda i: of_rows(i) if len(i) else float("nan")


def compute(
    name: str,
    references: Sequence[References],
    answers: Sequence[str],
    *,
    labels: Sequence[str],
    positive_label: str | None = None,
) -> float:
    """Return the metric over all rows; see `statistic` for the arguments. No rows give NaN."""
    value = statistic(name, references, answers, labels=labels, positive_label=positive_label)
    return value(np.arange(len(answers)))
