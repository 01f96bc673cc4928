"""What p is: probabilities over candidates, mixed with a little of the uniform, and what an answer costs in bits."""

from math import log, log2

import numpy as np
from numpy.typing import ArrayLike

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
    """Return the bits of the right answer: raw in open tasks, else as mixed among the candidates."""
    at = prediction.candidates.index(output)
    return -prediction.log_probs[at] / log(2) if task.is_open else -log2(prediction.probs[at])
