"""What p is: probabilities over candidates, mixed with a little of the uniform, and what an answer costs in bits."""

from math import log, log2

import numpy as np

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


def code_length_bits(task: Task, output: str, prediction: Prediction) -> float:
    """Return the bits of the right answer: raw in open tasks, else as mixed among the candidates."""
    at = prediction.candidates.index(output)
    return -prediction.log_probs[at] / log(2) if task.is_open else -log2(prediction.probs[at])
