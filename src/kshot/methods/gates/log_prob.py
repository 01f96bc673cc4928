"""An answer is doubtful where the model finds it less probable than its other answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.types import Prediction, Task
from kshot.measures.abstention import DIGITS
from kshot.methods.gates.gate import Gate

LEAST = 8  # answers before there is a quantile; until then none is doubtful


@dataclass(frozen=True)
class LogProb(Gate):
    """Doubt the answers whose probability is below a quantile of those of the past.

    Where answers are chosen it is the calibrated probability of the answer; of a text it is exp of the mean
    log-probability of its tokens, which takes one more pass over the prompt and the text.

    Attributes:
        quantile: The share of the past's answers that are less probable than the threshold.

    Source: our choice for AdaptMI without a reward model; confidence as a gate: Chen, Zaharia and Zou (2023),
    FrugalGPT, https://arxiv.org/abs/2305.05176. Differs: a quantile, not a trained judge.
    """

    quantile: float = setting(0.5, least=0.0, most=1.0)

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.SCORE})
    reads_text: ClassVar[bool] = True
    reads_sureness: ClassVar[bool] = True

    def doubt(self, task: Task, said: Prediction) -> float:
        """Return 1 - the probability of the answer.

        Raises:
            UserError: The model tells no probability of the text that it has written.
        """
        sureness = said.sureness if task.is_open else max(said.probs)
        if sureness is None:
            raise UserError(
                "gate=log-prob needs a model that tells how probable a text is; this one tells none. Use "
                "gate=disagreement with several contexts, as in adapt-mi(random:k=5,contexts=4, "
                "skills:k=5):gate=disagreement."
            )
        return round(1 - sureness, DIGITS)

    def most(self, past: Sequence[float]) -> float | None:
        """Return the quantile; None before there are `LEAST` answers."""
        return float(np.quantile(past, 1 - self.quantile)) if len(past) >= LEAST else None
