"""Which recipe is expected to be best once it knows all examples, and which to take where that is not clear.

The mean over a stream favours whoever was good from the start; its last part alone is mostly noise. So a recipe that
was asked again as it will be handed over (`kshot.race.second_look`) is valued by that, and one that could not be by
the stream, moved to where its learning curve leads, with a slope shrunk towards 0.

Right and wrong are smoothed: a row counts Phi(5 m / s) with m its margin and s the recipe's standard deviation of
margins, so that an answer that was hardly right counts less than a clear one. In simulated streams (`kshot bench race`)
that saves a seventh of the regret; unlike a mean of probabilities it does not depend on how sure of itself a recipe is.
More smoothing would save more where margins are normal; real ones are not, and it would favour some recipes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from kshot.core.settings import ChooseBy, Prefer
from kshot.core.types import FloatArray, Task
from kshot.measures.comparison import LEVEL
from kshot.measures.curves import at_end, moved, rows_worth
from kshot.measures.intervals import wilson
from kshot.measures.metrics import get_metric
from kshot.measures.ordered import boundary_margins, right_sides

SHRINK = 2.0  # of slopes, for each row: where all examples are predicted, about a third of a slope is believed
SHRINK_LEARNING = 0.5  # of recipes that keep learning: two thirds are believed (docs/results/choice.md)
SHARPNESS = 5.0  # of right and wrong, in standard deviations of margins
TIED = 1e-9  # nats: answers less than this apart are equally probable
LEAST_ROWS = 12  # for an interval

Row = Mapping[str, Any]


def compared_by(task: Task, by: ChooseBy) -> ChooseBy:
    """Return what the choice compares: bits in open tasks, whose texts are written for some rows only."""
    return "bits" if task.is_open else by


@dataclass(frozen=True)
class Evidence:
    """What is known of a recipe, each row as what it is worth: more is better.

    Attributes:
        stream: Of the rows of the stream, in its order.
        known: How many examples were known at each of them, which is their place in the stream.
        final: Of rows that stand for the recipe as it will be handed over, by their place in the stream; empty if there
            are none.
        keeps_learning: Whether each example changes it: then its slope is believed.
        of_texts: Whether rows are worth negative bits of an open task: the curve of these is a power law, as the first
            answers may cost many times as many as later ones; that of others is a straight line.
    """

    stream: FloatArray
    known: Sequence[int]
    final: Mapping[int, float] = field(default_factory=dict)
    keeps_learning: bool = False
    of_texts: bool = False

    @property
    def _shrink(self) -> float:
        return (SHRINK_LEARNING if self.keeps_learning else SHRINK) * len(self.stream)

    def expected(self, n_end: int) -> float:
        """Return what is expected of a row after `n_end` examples."""
        if self.final or self.of_texts:
            return float(np.mean(list(self._rows(n_end).values())))
        return at_end(self.stream, self.known, n_end, self._shrink)

    def _rows(self, n_end: int) -> Mapping[int, float]:
        """Return what tells of the recipe after `n_end` examples, by place; bits of texts as they would be then."""
        if self.final:
            return self.final
        stream = -moved(-self.stream, self.known, n_end, self._shrink) if self.of_texts else self.stream
        return dict(zip(self.known, stream.tolist(), strict=True))

    def interval(self, value: float, n_end: int, *, is_share: bool) -> tuple[float, float] | None:
        """Return the 95 % interval of what is expected of a row after `n_end` examples; None with too few rows.

        Args:
            value: What is expected.
            n_end: Examples known.
            is_share: Rows are worth 0 to 1. Then the interval is Wilson's, as nothing in 0..1 spreads more than zeros
                and ones; otherwise Student's. Rows of the stream count as the fewer rows at its end that tell as much.
        """
        rows = np.array(list(self._rows(n_end).values()))
        if len(rows) < LEAST_ROWS:
            return None
        n = self.n_worth(n_end)
        if is_share:
            return wilson(value * n, n, level=LEVEL)
        reach = float(stdtrit(len(rows) - 1, (1 + LEVEL) / 2) * rows.std(ddof=1) / np.sqrt(n))
        return value - reach, value + reach

    @property
    def n_rows(self) -> int:
        """How many rows there are of what is expected."""
        return len(self.final) if self.final else len(self.stream)

    def n_worth(self, n_end: int) -> float:
        """Return how many rows of the final recipe, after `n_end` examples, would tell as much about it as its own."""
        return len(self.final) if self.final else rows_worth(self.known, n_end, self._shrink)

    def paired(self, other: "Evidence", n_end: int, *, is_share: bool) -> float:
        """Return the standard error of the difference of what is expected of two recipes.

        By the rows that both have, but of no more rows than the one that is known less is worth. Where they have fewer
        than two in common, rows are not paired. Arguments as `interval`.
        """
        ours, theirs = self._rows(n_end), other._rows(n_end)
        gaps = np.array([ours[i] - theirs[i] for i in ours if i in theirs])
        n = min(self.n_worth(n_end), other.n_worth(n_end))
        if len(gaps) < 2:
            return float(np.sqrt((np.var(list(ours.values())) + np.var(list(theirs.values()))) / n))
        variance = gaps.var(ddof=1)
        if is_share:  # as `score_difference`: that few rows agree does not say that all would
            m = len(gaps) + 2
            variance = (gaps @ gaps + 1) / m - (gaps.sum() / m) ** 2
        return float(np.sqrt(variance / min(n, len(gaps))))


def margin(row: Row) -> float:
    """Return how far the right answer is ahead of the best wrong one, in nats; negative if it is behind."""
    right = row["candidates"].index(row["gold"])
    others = [value for i, value in enumerate(row["log_probs"]) if i != right]
    return row["log_probs"][right] - max(others, default=0.0)


def smoothed(margins: FloatArray, spread: float, sharpness: float = SHARPNESS) -> FloatArray:
    """Return right and wrong, smoothed: Phi(5 m / s)."""
    return ndtr(sharpness * margins / max(spread, 1e-9))


def valued(rows: Sequence[Row]) -> FloatArray:
    """Return what rows of a task with candidates are worth: smoothed right and wrong.

    Where several answers are equally probable the first of them is given, and is right or wrong: to count as half right
    would favour a model that knows nothing.
    """
    margins = np.array([margin(r) for r in rows], dtype=np.float64)
    given = np.array([r["score"] for r in rows], dtype=np.float64)
    return np.where(np.abs(margins) < TIED, given, smoothed(margins, float(margins.std()) if rows else 0.0))


def valued_in_order(rows: Sequence[Row], *, calibrated: bool = False) -> FloatArray:
    """Return what rows of ordered labels are worth: the share of boundaries on the right side, each smoothed.

    That is 1 less the distance of the median from the right label, as a share of the longest one (`measures/ordered`);
    of two labels it is what `valued` returns.

    Args:
        rows: Sample rows.
        calibrated: The median is that of the calibrated probabilities, as where it is the answer.
    """
    margins = np.array([boundary_margins(r, calibrated=calibrated) for r in rows])  # [n_rows, n_labels - 1]
    given = np.array([right_sides(r) for r in rows], dtype=np.float64)
    worth = np.where(np.abs(margins) < TIED, given, smoothed(margins, float(margins.std()) if rows else 0.0))
    return worth.mean(axis=1) if rows else np.zeros(0)


def evidence(
    task: Task,
    rows: Sequence[Row],
    again: Sequence[Row] = (),
    *,
    by: ChooseBy,
    keeps_stream: bool = False,
    keeps_learning: bool = False,
) -> Evidence:
    """Return the evidence of a recipe.

    By metric a row of a task with candidates is worth its smoothed rightness, or closeness where the metric is one of
    ordered labels, and one of a multi-label task its own score; by bits, and in open tasks, where texts
    are made for some rows only, its negative bits.

    Args:
        task: What is learnt.
        rows: Sample rows of the stream; `position` is the place in it.
        again: Those of the second look.
        by: What is compared.
        keeps_stream: Rows of the stream stand for the final recipe where there is no second look at them.
        keeps_learning: Each example changes the recipe.
    """
    if by == "bits" or task.is_open:
        stream, final = (np.array([-float(r["bits"]) for r in some]) for some in (rows, again))
    elif task.is_multi_label:  # how right a row is has more than two values already
        stream, final = (np.array([float(r["score"]) for r in some]) for some in (rows, again))
    else:
        in_order = partial(valued_in_order, calibrated=task.answer == "median")
        worth = in_order if get_metric(task.metrics[0]).needs_order else valued
        stream, final = worth(rows), worth(again)
    known = [r["position"] for r in rows]
    places = {r["position"]: float(value) for r, value in zip(again, final, strict=True)}
    if keeps_stream:
        places |= {at: float(v) for at, v in zip(known, stream, strict=True) if at not in places}
    return Evidence(stream, known, places, keeps_learning, task.is_open)


def ranked(
    expected: Mapping[str, float],
    error: Callable[[str, str], float],
    costs: Mapping[str, Mapping[str, float]],
    *,
    prefer: Prefer | None = None,
) -> list[str]:
    """Return the recipes, the one to choose first.

    With `prefer`, the first is the cheapest of those that are less than one standard error behind the best one.

    Args:
        expected: What is expected of each recipe, in its metric or in negative bits.
        error: Returns the standard error of the difference of two of them.
        costs: Of each recipe: `query_tokens`, `fit_tokens`, `bits_per_example`; ties go to the fewer bits, then tokens.
        prefer: "cheap-queries": fewer prompt tokens; "cheap-fit": fewer tokens to learn.

    Source: Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, section 3.4.3, for one
    standard error. Differs: that of the paired difference.
    """

    def rank(name: str) -> tuple[float, float, float]:
        return -round(expected[name], 9), costs[name]["bits_per_example"], costs[name]["query_tokens"]

    order = sorted(expected, key=rank)
    if not prefer or len(order) < 2:
        return order
    best = order[0]
    near = [n for n in order if expected[best] - expected[n] <= error(best, n)]
    first, second = ("query_tokens", "fit_tokens") if prefer == "cheap-queries" else ("fit_tokens", "query_tokens")
    cheapest = min(near, key=lambda name: (costs[name][first], costs[name][second], order.index(name)))
    return [cheapest, *(name for name in order if name != cheapest)]
