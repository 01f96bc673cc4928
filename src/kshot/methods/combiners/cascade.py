"""A cascade: the cheap recipe answers, and the expensive one is asked where the cheap one is unsure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import logit
from typing_extensions import TypedDict

from kshot.core.fields import setting, state
from kshot.core.types import FloatArray, Prediction, Task
from kshot.measures.abstention import DIGITS
from kshot.methods.contracts import Answered, Combiner

ALWAYS = 2.0  # no recipe is as sure as that: the dear one is asked
SHRINK = 5.0  # of the slope, in rows
LEAST = 16  # rows before a threshold is chosen; until then the dear one is always asked


class _Remembered(TypedDict):
    _calibrations: list[dict[str, Any]]
    _threshold: float


@dataclass(frozen=True)
class Cascade(Combiner):
    """Answer with the first recipe, and ask the second where the first is unsure.

    The first is unsure where the calibrated probability of its answer is below a threshold, which is chosen on the past
    in one of two ways:

    - by quality: the lowest threshold with which no more than `quality` points are lost against the second alone.
      What is lost on an example is 1 where the second alone is right and -1 where the first alone is. So that few rows
      do not decide by luck, a straight line stands for the losses: in the log-odds of how sure the first recipe is,
      with a slope that is shrunk towards 0 as if there were 5 more rows without one.
    - by price, if one is given: a query takes on average about `price` of the tokens of the second alone. The
      threshold is the quantile of the past's probabilities that leaves as many below it.

    Attributes:
        quality: Points of accuracy that may be lost against the second recipe alone.
        price: Tokens a query against those of the second alone; 0 lets `quality` decide.

    Source: Viola and Jones (2001), https://doi.org/10.1109/CVPR.2001.990517; for language models Chen, Zaharia and Zou
    (2023), FrugalGPT, https://arxiv.org/abs/2305.05176. Differs: the gate is the calibrated probability, no model of
    its own; the threshold is that of the past of a stream.
    """

    quality: float = setting(0.0, least=0.0, most=100.0)
    price: float = setting(0.0, least=0.0, most=1.0)
    _threshold: float = state(ALWAYS)

    learns: ClassVar[bool] = True
    weighs: ClassVar[bool] = True
    lazy: ClassVar[bool] = True
    most_members: ClassVar[int] = 2
    remembered: ClassVar[type | None] = _Remembered

    def suits(self, task: Task) -> bool:
        """Return whether answers are chosen, so that it is known how probable the first recipe finds its own."""
        return not task.is_open

    def fit(self, task: Task, past: Sequence[Answered]) -> Self:
        """Return the cascade with the threshold that suits the past."""
        if len(past) < LEAST:
            return replace(self, _threshold=ALWAYS)
        sure = np.array([_sureness(row.said[0]) for row in past])
        if self.price:
            cheap, dear = (sum(row.said[m].prompt_tokens for row in past) for m in (0, 1))
            share = min(1.0, max(0.0, self.price - cheap / dear)) if dear else 1.0
            return replace(self, _threshold=ALWAYS if share == 1 else float(np.quantile(sure, share)))
        lost = np.array([_is_right(row, 1) - _is_right(row, 0) for row in past], dtype=np.float64)
        return replace(self, _threshold=_lowest(sure, lost, self.quality / 100 * len(past)))

    def asks(self, task: Task, said: Sequence[Prediction]) -> bool:
        """Return whether the first recipe is unsure."""
        return _sureness(said[0]) < self._threshold

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return what the last one says that was asked."""
        return members[-1]


def _sureness(prediction: Prediction) -> float:
    return round(max(prediction.probs), DIGITS)


def _is_right(row: Answered, member: int) -> bool:
    return row.said[member].answer == row.example.output


def _lowest(sure: FloatArray, lost: FloatArray, most: float) -> float:
    """Return the lowest threshold above which at most `most` is lost; rows that are as sure stay together.

    Args:
        sure: How sure the first recipe is of each row.
        lost: What is lost on each row where the second is not asked.
        most: What may be lost on all of them.
    """
    order = np.argsort(-sure, kind="stable")
    sure, lost = sure[order], lost[order]
    odds = logit(sure)
    odds -= odds.mean()
    slope = min(0.0, odds @ lost / max(odds @ odds + SHRINK * odds.var(), 1e-9))
    ends = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)
    kept = ends[np.cumsum(lost.mean() + slope * odds)[ends] <= most + 1e-9]
    return float(sure[kept[-1]]) if len(kept) else ALWAYS
