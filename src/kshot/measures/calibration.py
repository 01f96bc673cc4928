"""How a recipe's log-probabilities become probabilities: without its liking for some labels, and as sure as is right.

Both are fitted on what it has predicted so far, and cost no model call:

    log p(y) = (log q(y) - strength log m(y)) / temperature, normalised,

where q is what the recipe says and m its label prior, the mean of q over inputs, for which no answer has to be known.

Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2, https://arxiv.org/abs/1706.04599,
for the temperature; Zhou et al. (2023), "Batch calibration", https://arxiv.org/abs/2309.17249, for the label prior and
its strength. Differs: fitted on the past of the stream instead of a validation set or a batch, the recent past most, as
later predictions know more examples than early ones; priors around temperature 1, strength 0 and a label prior that
likes all labels alike; grids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from kshot.core.label_sets import SURE, having
from kshot.core.types import Example, FloatArray, Prediction
from kshot.measures.probabilities import each_by_itself, normalised

TEMPERATURES = tuple(2.0 ** (i / 4) for i in range(-12, 13))  # 1/8 to 8, with 1 in the middle
STRENGTHS = (0.0, 0.5, 1.0)
LEAST_PAST = 8
# Both chosen on training rows of six tasks (JOURNAL.md, 2026-11-22)
DECAY = 0.95  # the weight of a prediction against that of the next one
PRIOR_BITS = 2.0  # what a temperature off by a factor of e has to save over the past
# All three chosen on training rows (benchmarks/label_prior.py)
LABEL_DECAY = 0.98  # the weight of an input against that of the next one, in the label prior
LABEL_INPUTS = 4.0  # as many inputs, of which nothing is said, stand in every label prior
DECAY_OF_INPUTS = LABEL_DECAY  # of multi-label tasks
STRENGTH_BITS = 0.5  # what all of the label prior has to save over the past


@dataclass(frozen=True)
class Calibration:
    """How the log-probabilities of a recipe become probabilities over candidates.

    Attributes:
        temperature: By which log-probabilities are divided.
        strength: How much of the label prior is taken out, 0 to 1.
        prior: The mean probability of each label over inputs; empty where none of it is taken out. In multi-label tasks
            the mean log-odds.
        offsets: In multi-label tasks what is added to the log-odds of each label; empty in others.
        threshold: There the probability from which on a label is said.
    """

    temperature: float = 1.0
    strength: float = 0.0
    prior: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    threshold: float = SURE

    def record(self) -> dict[str, Any]:
        """Return it as JSON; what is of multi-label tasks alone is there where it says something."""
        found = {"temperature": self.temperature, "strength": self.strength, "prior": self.prior}
        if not self.offsets:
            return found
        return found | {"prior": (), "means": self.prior, "offsets": self.offsets, "threshold": self.threshold}

    def of(self, prediction: Prediction) -> Prediction:
        """Return the prediction with calibrated probabilities, and with the answer that is then the most probable.

        Its log-probabilities are those without the label prior, before the temperature.
        """
        if self == UNCALIBRATED:
            return prediction
        log_probs = np.array(prediction.log_probs)
        if self.offsets:
            prior = np.array(self.prior) if self.strength else 0.0
            probs = each_by_itself((log_probs - self.strength * prior) / self.temperature + self.offsets)
            answer = having(probs >= self.threshold, prediction.candidates)
            return replace(prediction, probs=tuple(probs.tolist()), answer=answer)
        if self.strength:
            log_probs = log_probs - self.strength * np.log(self.prior)
            answer = prediction.candidates[int(np.argmax(log_probs))]
            prediction = replace(prediction, log_probs=tuple(log_probs.tolist()), answer=answer)
        return replace(prediction, probs=tuple(normalised(log_probs / self.temperature).tolist()))

    def asked(self, predictions: Sequence[Prediction]) -> "Calibration":
        """Return the same for a recipe that has said these things: with its label prior over their inputs.

        A prompt that was drawn anew likes other labels than those along the stream did.
        """
        if not (self.strength and predictions):
            return self
        if self.offsets:
            mean = mean_log_odds(np.array([p.log_probs for p in predictions]))
            return replace(self, prior=tuple(mean.tolist()))
        total = normalised(np.array([p.log_probs for p in predictions])).sum(axis=0)
        return replace(self, prior=_smoothed(total, len(predictions)))


UNCALIBRATED = Calibration()


def calibrated(
    predictions: Sequence[Prediction], examples: Sequence[Example], *, label_prior: bool = False
) -> tuple[list[Prediction], Calibration]:
    """Return the predictions of a stream, each calibrated by those before it.

    A prediction's own input counts in its label prior, as its answer does not.

    Args:
        predictions: In the order of the stream, as the recipe gave them.
        examples: What they are for.
        label_prior: Whether the label prior is taken out where that saves bits on the past; for predictions that all
            have the same candidates.

    Returns:
        The predictions, and the calibration fitted on all of them.
    """
    settings = list(product(STRENGTHS if label_prior else (0.0,), TEMPERATURES))
    prior_bits = np.array([STRENGTH_BITS * s**2 + PRIOR_BITS * np.log(t) ** 2 for s, t in settings])
    strengths, temperatures = np.array(settings).T
    past, total, n = np.zeros(len(settings)), np.zeros(()), 0.0
    temperature, strength = UNCALIBRATED.temperature, UNCALIBRATED.strength
    found, last = [], UNCALIBRATED
    for i, (prediction, example) in enumerate(zip(predictions, examples, strict=True), 1):
        row = np.array(prediction.log_probs)  # [n_candidates]
        if label_prior:
            total, n = LABEL_DECAY * total + normalised(row), LABEL_DECAY * n + 1
        prior = _smoothed(total if label_prior else np.zeros(len(row)), n)
        last = _calibration(temperature, strength, prior)
        found.append(last.of(prediction))
        tried = (row - strengths[:, None] * np.log(prior)) / temperatures[:, None]  # [n_settings, n_candidates]
        past = DECAY * past - np.log2(normalised(tried)[:, prediction.candidates.index(example.output)])
        if i >= LEAST_PAST:
            best = min(range(len(settings)), key=lambda s: (past[s] + prior_bits[s], prior_bits[s]))
            strength, temperature = settings[best]
            last = _calibration(temperature, strength, prior)
    return found, last


def mean_log_odds(rows: FloatArray) -> FloatArray:
    """Return the mean log-odds of each label over inputs, `[n_inputs, n_labels]` in order, the recent ones most.

    `LABEL_INPUTS` inputs more, on which labels are all alike, stand in it.
    """
    weights = DECAY_OF_INPUTS ** np.arange(len(rows) - 1, -1, -1.0)
    total, n = weights @ rows, weights.sum()
    return (total + LABEL_INPUTS * total.mean() / n) / (n + LABEL_INPUTS)


def _calibration(temperature: float, strength: float, prior: tuple[float, ...]) -> Calibration:
    return Calibration(temperature, strength, prior if strength else ())


def _smoothed(total: FloatArray, n: float) -> tuple[float, ...]:
    """Return a mean of probabilities, given their sum: `LABEL_INPUTS` inputs more like all labels alike."""
    return tuple(((total + LABEL_INPUTS / len(total)) / (n + LABEL_INPUTS)).tolist())
