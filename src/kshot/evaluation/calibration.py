"""One temperature for a recipe's probabilities, fitted on what it has predicted so far.

Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2, https://arxiv.org/abs/1706.04599.
Differs: fitted on the past of the stream instead of a validation set, with a prior around 1, over a grid.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kshot.asking import normalised
from kshot.core.types import Example, FloatArray, Prediction
from kshot.learning import refit_point

TEMPERATURES = tuple(2.0 ** (i / 4) for i in range(-12, 13))  # 1/8 to 8, with 1 in the middle
LEAST_PAST = 8
_PRIOR_BITS = 1.0  # what a temperature off by a factor of e has to save over all of the past


def fit_temperature(log_probs: Sequence[FloatArray], right: Sequence[int]) -> float:
    """Return the temperature T with the fewest bits, sum over rows of -log2 p_T(right) + (ln T)^2.

    It is 1 unless another one lowers the bits of these rows, and 1 for fewer than 8 rows.

    Args:
        log_probs: For each row the log-probabilities in nats of its candidates.
        right: For each row the index of the right candidate.
    """
    if len(log_probs) < LEAST_PAST:
        return 1.0

    def cost(temperature: float) -> float:
        chances = [normalised(row, temperature)[i] for row, i in zip(log_probs, right, strict=True)]
        return -float(np.log2(chances).sum()) + _PRIOR_BITS * np.log(temperature) ** 2

    return min(TEMPERATURES, key=lambda t: (cost(t), abs(np.log(t))))


def with_temperature(prediction: Prediction, temperature: float) -> Prediction:
    """Return the prediction with probabilities at another temperature; the answer stays the same."""
    probabilities = normalised(np.array(prediction.log_probs), temperature)
    return replace(prediction, probs=tuple(probabilities.tolist()))


def temperature_of(predictions: Sequence[Prediction], examples: Sequence[Example]) -> float:
    """Return the temperature fitted on predictions and the examples that they were made for."""
    right = [p.candidates.index(e.output) for p, e in zip(predictions, examples, strict=True)]
    return fit_temperature([np.array(p.log_probs) for p in predictions], right)


def calibrated(predictions: Sequence[Prediction], examples: Sequence[Example]) -> list[Prediction]:
    """Return the predictions of a stream, each at the temperature fitted on those before it.

    It is fitted anew whenever the past has doubled.
    """
    result, temperature = [], 1.0
    for i, prediction in enumerate(predictions):
        if i and i == refit_point(i):
            temperature = temperature_of(predictions[:i], examples[:i])
        result.append(with_temperature(prediction, temperature))
    return result
