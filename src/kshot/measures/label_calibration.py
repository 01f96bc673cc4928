"""How log-odds of labels become a set of them: how likely each is right, and from which probability on it is said.

All of it is fitted on what a recipe has predicted so far, and costs no model call. A label l of an input is right with

    logit p = (log-odds - strength m_l) / temperature + b_l,

where m_l is the mean of the label's log-odds over inputs, for which no answer has to be known: a model likes to say yes
to some labels whatever it reads. b_l is how often the label is right, as a deviation from what all labels have in
common, and is near that until its own rows say otherwise. Either all of m_l is taken out or nothing of it, by the bits
that this saved on the past. A label is said where p is at least a threshold, one for all labels, with which the task's
metric was best on the past.

Source: for the temperature and the mean over inputs as `kshot.measures.calibration`; Lipton, Elkan and Naryanaswamy
(2014), https://arxiv.org/abs/1402.1892: F1 is largest with a threshold of half that F1, so below 1/2.
Differs: fitted prequentially, with Gaussian priors on slope and offsets; the threshold is looked for on a grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit

from kshot.core.label_sets import indicator
from kshot.core.types import Example, FloatArray, Prediction
from kshot.measures.calibration import DECAY_OF_INPUTS, Calibration, mean_log_odds
from kshot.measures.probabilities import each_by_itself

LEAST_PAST = 8  # predictions, before a threshold is looked for
OWN, COMMON, SLOPE = 1.0, 0.1, 4.0  # precision of the priors: of a label's own offset, of the common one, of the slope
LEAST_SLOPE = 0.05
STEPS = 4  # of Newton's method for each prediction, from where it was at the one before
THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(2, 36))  # 0.04 to 0.7
# Thresholds before there is a past; of other metrics 1/2
USUAL: Mapping[str, float] = dict.fromkeys(("micro_f1", "macro_f1", "f1"), 0.3)
TRUST = 2.0  # rows: so much of the metric has to speak for another threshold


@dataclass
class _Fit:
    """One way to read log-odds, fitted as the stream goes on.

    Attributes:
        takes_out: Whether the mean log-odds of each label are taken out.
        usual: What the common offset is before anything is known.
        bits: What it has cost so far, the recent past most.
    """

    takes_out: bool
    usual: float
    n_labels: int
    slope: float = 1.0
    common: float = 0.0
    bits: float = 0.0
    own: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self):
        self.common, self.own = self.usual, np.zeros(self.n_labels)

    def logits(self, row: FloatArray, mean: FloatArray) -> FloatArray:
        """Return the logit of each label's probability."""
        return self.slope * (row - mean if self.takes_out else row) + self.common + self.own

    def learn(self, rows: FloatArray, mean: FloatArray, holds: FloatArray, weights: FloatArray) -> None:
        """Take steps of Newton's method on all rows so far: `rows` and `holds` `[n, n_labels]`, `weights` `[n]`."""
        given = rows - mean if self.takes_out else rows
        for _ in range(STEPS):
            p = expit(self.slope * given + self.common + self.own)
            error, spread = weights[:, None] * (p - holds), weights[:, None] * p * (1 - p)
            # unknowns: slope, common, and one for each label, whose block of the Hessian is diagonal
            by_label, curve = error.sum(axis=0) + OWN * self.own, spread.sum(axis=0) + OWN
            slope_own = (spread * given).sum(axis=0)
            top = np.array(
                [(error * given).sum() + SLOPE * (self.slope - 1), error.sum() + COMMON * (self.common - self.usual)]
            )
            block = np.array([slope_own, spread.sum(axis=0)])  # [2, n_labels]
            corner = np.array(
                [
                    [(spread * given**2).sum() + SLOPE, slope_own.sum()],
                    [slope_own.sum(), spread.sum() + COMMON],
                ]
            )
            step = np.linalg.solve(corner - (block / curve) @ block.T, top - (block / curve) @ by_label)
            own = (by_label - step @ block) / curve
            self.slope = max(LEAST_SLOPE, self.slope - float(np.clip(step[0], -1, 1)))
            self.common -= float(np.clip(step[1], -2, 2))
            self.own = self.own - np.clip(own, -2, 2)


def calibrated_labels(
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    *,
    metric: str,
    positive_label: str | None = None,
    as_said: bool = False,
) -> tuple[list[Prediction], Calibration]:
    """Return the predictions of a stream, each calibrated by those before it.

    A prediction's own input counts in the mean log-odds, as its answer does not.

    Args:
        predictions: In the order of the stream, as the recipe gave them, all with the same labels.
        examples: What they are for.
        metric: The one that the threshold is to make large, by the name that the task has for it.
        positive_label: The label that f1 counts.
        as_said: Probabilities stay as the recipe says them, and the threshold alone is fitted.

    Returns:
        The predictions, and the calibration fitted on all of them.
    """
    if not predictions:
        return [], Calibration()
    labels = predictions[0].candidates
    rows = np.array([p.log_probs for p in predictions], dtype=np.float64)  # [n, n_labels]
    holds = indicator([e.output for e in examples], labels)
    fits = (_Fit(True, -np.log(max(1.0, len(labels) - 1.0)), len(labels)), _Fit(False, 0.0, len(labels)))
    fits = fits[1:] if as_said else fits
    threshold = _Threshold(metric, len(labels), labels.index(positive_label) if positive_label in labels else 0)
    found, last = list[Prediction](), Calibration()
    for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
        mean = mean_log_odds(rows[: i + 1])
        best = min(fits, key=lambda fit: fit.bits)
        last = _calibration(best, mean, threshold.best)
        found.append(last.of(prediction))
        for fit in () if as_said else fits:
            p = each_by_itself(fit.logits(row, mean))
            right = np.where(holds[i], p, 1 - p)
            fit.bits = DECAY_OF_INPUTS * fit.bits - float(np.log2(right).sum())
            weights = DECAY_OF_INPUTS ** np.arange(i, -1, -1.0)
            fit.learn(rows[: i + 1], mean, holds[: i + 1].astype(np.float64), weights)
        threshold.learn(np.array(found[-1].probs), holds[i])
        last = _calibration(min(fits, key=lambda fit: fit.bits), mean, threshold.best)
    return found, last


def _calibration(fit: _Fit, mean: FloatArray, threshold: float) -> Calibration:
    prior = tuple(mean.tolist()) if fit.takes_out else ()
    offsets = tuple((fit.common + fit.own).tolist())
    return Calibration(1 / fit.slope, float(fit.takes_out), prior, offsets, threshold)


class _Threshold:
    """The threshold with which a metric was best so far."""

    def __init__(self, metric: str, n_labels: int, positive: int):
        self._metric, self._positive, self._n = metric.removeprefix("set_"), positive, 0
        self._usual = USUAL.get(self._metric, 0.5)
        self._sums = np.zeros((len(THRESHOLDS), 3, n_labels))  # right, wrong, missed
        self._exact = np.zeros(len(THRESHOLDS))

    def learn(self, probs: FloatArray, holds: np.ndarray) -> None:
        """Count what each threshold would have said of an input."""
        said = probs >= np.array(THRESHOLDS)[:, None]  # [n_thresholds, n_labels]
        self._sums += np.stack([said & holds, said & ~holds, ~said & holds], axis=1)
        self._exact += (said == holds).all(axis=1)
        self._n += 1

    @property
    def best(self) -> float:
        """The usual one, as long as too little is known."""
        if self._n < LEAST_PAST:
            return self._usual
        right, wrong, missed = (self._sums[:, i] for i in range(3))
        if self._metric in ("macro_f1", "f1"):
            by_label = 2 * right / np.maximum(2 * right + wrong + missed, 1)  # [n_thresholds, n_labels]
            value = by_label.mean(axis=1) if self._metric == "macro_f1" else by_label[:, self._positive]
        elif self._metric == "micro_f1":
            value = 2 * right.sum(1) / np.maximum((2 * right + wrong + missed).sum(1), 1)
        elif self._metric == "hamming":
            value = -(wrong + missed).mean(axis=1) / self._n
        else:
            value = self._exact / self._n
        away = np.abs(np.log(np.array(THRESHOLDS) / self._usual))
        return THRESHOLDS[int(np.argmax(value - TRUST / self._n * 0.1 * away))]
