"""An answer is doubtful where a reward model doubts a step of the way to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.types import Prediction, Task
from kshot.methods.gates.gate import First, Gate

SCORES = "step_scores"


@dataclass(frozen=True)
class StepScores(Gate):
    """Doubt the answers whose steps are scored low: the last one, all on average, or any but the first.

    With scores r_1 … r_T of the steps, such as a process reward model's: r_T <= tau1, or mean(r) <= tau1, or any
    r_t <= tau2 for t >= 2. Of several attempts those scores count whose mean is the highest; an attempt without a step
    is doubtful. The scores are those that the composer of the first recipe has found (`step_scores` of
    `Prediction.found`), one's own or another's.

    Attributes:
        tau1: For the last step and the mean.
        tau2: For every step but the first.

    Source: He et al. (2025), AdaptMI, https://arxiv.org/abs/2505.00147, stage 1, and its scripts for both thresholds.
    Differs: nothing.
    """

    tau1: float = setting(0.9, least=0.0, most=1.0)
    tau2: float = setting(0.7, least=0.0, most=1.0)

    def check(self, first: First) -> None:
        """Raise a UserError unless the first recipe's composer finds something out about questions."""
        if not first.considers:
            raise UserError(
                "gate=steps must have a first recipe whose composer scores the steps of an attempt; that of "
                f"'{first.name}' scores none. Give it one that does, as in adapt-mi(random:k=5,composer=reason-first("
                "judge=plus-minus), skills:k=5):gate=steps, or use gate=log-prob."
            )

    def doubt(self, task: Task, said: Prediction) -> float:
        """Return 1 where it is doubtful, else 0.

        Raises:
            UserError: There are no scores.
        """
        scored = [found for found in said.found if SCORES in found and (found[SCORES] or not found.get("reason"))]
        attempts = [tuple(found[SCORES]) for found in scored]
        if not attempts:
            raise UserError(
                f"gate=steps must be told '{SCORES}' by the composer of the first recipe; it has told none. Let it "
                "score the steps, as in random:k=5,composer=reason-first(judge=plus-minus), or use gate=log-prob."
            )
        scores = max(attempts, key=lambda row: sum(row) / max(1, len(row)))
        return float(self.is_difficult(scores))

    def is_difficult(self, scores: Sequence[float]) -> bool:
        """Return whether steps with these scores are doubtful."""
        if not scores:
            return True
        is_low = min(scores[-1], sum(scores) / len(scores)) <= self.tau1
        return is_low or any(score <= self.tau2 for score in scores[1:])

    def most(self, past: Sequence[float]) -> float | None:
        """Return what is between the two."""
        return 0.5
