"""What p is: probabilities over candidates, mixed with a little of the uniform, and what an answer costs in bits."""

from math import log, log2

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from kshot.core.label_sets import indicator
from kshot.core.types import (
    FloatArray,
    Prediction,
    Task,
)

UNIFORM_SHARE = 0.01  # of the uniform, mixed into every recipe's probabilities


def mixed(probabilities: FloatArray) -> FloatArray:
    """Mix in a little of the uniform over the last axis, so that no answer costs infinitely many bits."""
    return (1 - UNIFORM_SHARE) * probabilities + UNIFORM_SHARE / probabilities.shape[-1]


def normalised(log_probs: FloatArray) -> FloatArray:
    """Return the probabilities over candidates, the last axis, of log-probabilities in nats, mixed."""
    return mixed(np.exp(log_probs - np.logaddexp.reduce(log_probs, axis=-1, keepdims=True)))


def each_by_itself(log_odds: FloatArray) -> FloatArray:
    """Return the probability that each label is right, of log-odds in nats, mixed with a little of the uniform."""
    return (1 - UNIFORM_SHARE) * expit(log_odds) + UNIFORM_SHARE / 2


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of two distributions in bits, 0 to 1.

    It is the mean of the divergences (Kullback-Leibler) of both from their middle.

    Args:
        p: Probabilities that sum to 1 `[n]`.
        q: Likewise.

    Source: Lin (1991), https://doi.org/10.1109/18.61115.

    Example:
        >>> jensen_shannon([0.5, 0.5], [0.5, 0.5]), jensen_shannon([1, 0], [0, 1])
        (0.0, 1.0)
    """
    pair = np.array([p, q], dtype=np.float64)
    inside = np.where(pair > 0, pair, 1.0)
    ratios = np.log2(inside / np.where(pair > 0, pair.mean(axis=0), 1.0))
    return float((pair * ratios).sum() / 2)


def code_length_bits(task: Task, output: str, prediction: Prediction) -> float:
    """Return the bits of the right answer: raw in open tasks, else as mixed among the candidates.

    Of a set of labels they are the sum over all labels of the bits of what is right of each, that it is in the set or
    not: the code length of the set where labels are coded one after the other, each by its own probability.
    """
    if task.is_multi_label:
        holds, probs = indicator([output], prediction.candidates)[0], np.array(prediction.probs)
        return float(-np.log2(np.where(holds, probs, 1 - probs)).sum())
    at = prediction.candidates.index(output)
    return -prediction.log_probs[at] / log(2) if task.is_open else -log2(prediction.probs[at])
