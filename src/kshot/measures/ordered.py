"""Ordered labels, such as stars: how far an answer is from the right one, seen as boundaries between neighbours.

The labels y_1 < y_2 < ... < y_n have n - 1 boundaries, and each asks: is the right label above it? With probabilities p
the answer to boundary k is yes where p(y_(k+1)) + ... + p(y_n) is more than a half. The number of boundaries that are
answered wrongly is the distance of the median of p from the right label. So what is known of right and wrong answers
(`kshot.race.ranking`) holds for distances, a boundary at a time; of two labels it is the same.

Source: Frank and Hall (2001), "A simple approach to ordinal classification", https://doi.org/10.1007/3-540-44795-4_13,
for the questions. Differs: they are read off one distribution, no classifier is trained for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kshot.core.types import FloatArray, Prediction, Task


def as_answered(task: Task, prediction: Prediction) -> Prediction:
    """Return a prediction with the answer that its task wants: the median of ordered labels where it says so.

    The median makes the expected absolute distance least, which the most probable label need not.
    """
    if not task.ordered or task.answer != "median" or prediction.answer is None:
        return prediction
    return replace(prediction, answer=median(prediction.candidates, prediction.probs))


def median(candidates: Sequence[str], probs: Sequence[float]) -> str:
    """Return the first label with which half of the probability is reached.

    Args:
        candidates: In their order.
        probs: Of each of them, summing to 1.

    Example:
        >>> median(("1", "2", "3"), (0.4, 0.25, 0.35))
        '2'
    """
    reached = np.cumsum(np.asarray(probs, dtype=np.float64))
    # rounding must not carry the half that a label reaches on to the next one
    return candidates[int(np.argmax(reached >= reached[-1] / 2 - 1e-12))]


def boundary_margins(row: Mapping[str, Any], *, calibrated: bool = False) -> FloatArray:
    """Return how far the right side of each boundary is ahead of the wrong one, in nats, `[n_labels - 1]`.

    Args:
        row: A sample row; its candidates stand in their order.
        calibrated: By the probabilities, of which the median is given: a temperature, which leaves the most probable
            label as it is, can move it.
    """
    least = np.finfo(np.float64).tiny  # of a label that is quite out of the question
    logs = np.log(np.maximum(row["probs"], least)) if calibrated else np.asarray(row["log_probs"], dtype=np.float64)
    below, above = np.logaddexp.accumulate(logs)[:-1], np.logaddexp.accumulate(logs[::-1])[::-1][1:]
    return (above - below) * _sides(row, "gold")


def right_sides(row: Mapping[str, Any]) -> FloatArray:
    """Return of each boundary whether the given answer is on the side of the right one: 1 or 0, `[n_labels - 1]`."""
    return (_sides(row, "gold") == _sides(row, "answer")).astype(np.float64)


def _sides(row: Mapping[str, Any], key: str) -> FloatArray:
    """Return of each boundary whether a label is above it, 1, or below, -1."""
    place = row["candidates"].index(row[key])
    return np.where(np.arange(len(row["candidates"]) - 1) < place, 1.0, -1.0)
