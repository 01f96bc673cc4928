"""One temperature for a recipe's probabilities, fitted on what it has predicted so far.

Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2, https://arxiv.org/abs/1706.04599.
Differs: fitted on the past of the stream instead of a validation set, the recent past most, as later predictions know
more examples than early ones; a prior around 1; a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.types import Example, FloatArray, Prediction
from kshot.measures.probabilities import normalised

TEMPERATURES = tuple(2.0 ** (i / 4) for i in range(-12, 13))  # 1/8 to 8, with 1 in the middle
LEAST_PAST = 8
# Both chosen on training rows of six tasks (JOURNAL.md, 2026-11-22)
DECAY = 0.95  # the weight of a prediction against that of the next one
PRIOR_BITS = 2.0  # what a temperature off by a factor of e has to save over the past


def _code_lengths(predictions: Sequence[Prediction], examples: Sequence[Example]) -> FloatArray:
    """Return the bits of each right answer at each of `TEMPERATURES`, `[n, n_temperatures]`."""
    bits = np.empty((len(predictions), len(TEMPERATURES)))
    for row, prediction, example in zip(bits, predictions, examples, strict=True):
        right, log_probs = prediction.candidates.index(example.output), np.array(prediction.log_probs)
        row[:] = [-np.log2(normalised(log_probs, temperature)[right]) for temperature in TEMPERATURES]
    return bits


def _running_temperatures(bits: FloatArray) -> list[float]:
    """Return the temperature T that suits the rows before each row, and last that for all rows.

    It has the least sum over earlier rows j of DECAY^(rows since j) bits_T(j), + PRIOR_BITS (ln T)^2: it is 1 unless
    another one saves bits on these rows, and after fewer than 8 rows.
    """
    prior = PRIOR_BITS * np.log(TEMPERATURES) ** 2
    found, past = [1.0] * min(LEAST_PAST, len(bits) + 1), np.zeros(len(TEMPERATURES))
    for n, row in enumerate(bits, 1):
        past = DECAY * past + row
        if n >= LEAST_PAST:
            best = min(range(len(TEMPERATURES)), key=lambda t: (past[t] + prior[t], prior[t]))
            found.append(TEMPERATURES[best])
    return found


@dataclass(frozen=True)
class Calibration:
    """How the log-probabilities of a recipe become probabilities over candidates.

    Attributes:
        temperature: By which log-probabilities are divided.
    """

    temperature: float = 1.0

    def of(self, prediction: Prediction) -> Prediction:
        """Return the prediction with calibrated probabilities; the answer stays the same."""
        if self == UNCALIBRATED:
            return prediction
        probabilities = normalised(np.array(prediction.log_probs), self.temperature)
        return replace(prediction, probs=tuple(probabilities.tolist()))


UNCALIBRATED = Calibration()


def calibrated(predictions: Sequence[Prediction], examples: Sequence[Example]) -> tuple[list[Prediction], Calibration]:
    """Return the predictions of a stream, each calibrated by those before it.

    Returns:
        The predictions, and the calibration fitted on all of them.
    """
    *before, after_all = map(Calibration, _running_temperatures(_code_lengths(predictions, examples)))
    return [c.of(p) for c, p in zip(before, predictions, strict=True)], after_all
