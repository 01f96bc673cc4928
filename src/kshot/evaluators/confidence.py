"""Whether a model is as sure of its answers as they are right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.types import FloatArray, Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.abstention import confidence
from kshot.measures.measured import Measured
from kshot.measures.overconfidence import brier, calibration_error, gap, separation
from kshot.methods.skill_profile import is_wrong


@dataclass(frozen=True)
class Confidence(Evaluator):
    """Compare the confidence of each answer with whether it is right.

    In open tasks the confidence is the number that the answer states (composer `stated`); answers that state none are
    counted as `n_unstated` and left out of all else. Where answers are chosen it is the answer's probability. An answer
    is right where its score by the task's metric is a half or more. `ece` has 10 bins; `brier` is the mean of
    (confidence - right)^2; `spr` is the chance that a right answer has a higher confidence than a wrong one, ties
    count 0; `ocg` is mean confidence - accuracy.

    Source: Zhang et al. (2026), CaOPD, https://arxiv.org/abs/2604.16830; of ECE: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599.
    Differs: probabilities too, where answers are chosen.
    """

    def suits(self, task: Task) -> bool:
        """Return whether an answer has one confidence: each label of a set has its own."""
        return not task.is_multi_label

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each test row as it is; see `kshot.evaluators.evaluator.Evaluator`."""
        return [Case(example) for example in task.test]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return the errors of the confidences.

        Raises:
            UserError: No answer states one.
        """
        sure: list[float] = []
        right: list[bool] = []
        ids: list[str] = []
        for case, p in zip(cases, predictions, strict=True):
            stated = p.stated if task.is_open else confidence(str(p.answer), p.candidates, p.probs)
            if stated is not None:
                ids.append(case.example.id)
                sure.append(stated)
                right.append(not is_wrong(task, case.example, p.answer or ""))
        if not sure:
            raise UserError(
                "--suite confidence needs answers that state how sure they are, as in 'blue (confidence 0.75)'; none "
                "does. Adapt with composer=stated or teacher=calibrated."
            )
        rows = np.column_stack([sure, right])
        errors = {"ece": calibration_error, "brier": brier, "spr": separation, "ocg": gap}
        return {
            "n": len(sure),
            "n_unstated": len(cases) - len(sure),
            "accuracy": Measured(ids, right),
            "mean_confidence": Measured(ids, sure),
            **{name: Measured(ids, rows, partial(_error, of)) for name, of in errors.items()},
        }


def _error(of: Callable[[Any, Any], float | None], rows: FloatArray) -> float:
    """Return an error of confidences, of rows of (confidence, right); NaN where it has none."""
    value = of(rows[:, 0], rows[:, 1] == 1)
    return float("nan") if value is None else value
