"""An answer is doubtful where the contexts after which a question was asked lead to different ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.types import Prediction, Task
from kshot.methods.gates.gate import First, Gate


@dataclass(frozen=True)
class Disagreement(Gate):
    """Doubt the answers that more than a share of the contexts of the first recipe do not give.

    It needs several contexts, such as `random:k=5,contexts=4`, and no probabilities: so it works with models that only
    write.

    Attributes:
        share: Of the contexts.

    Source: our choice for AdaptMI without a reward model; agreement of several answers: Wang et al. (2022),
    Self-Consistency, https://arxiv.org/abs/2203.11171. Differs: answers after several contexts, not samples.
    """

    share: float = setting(0.0, least=0.0, most=1.0)

    reads_text: ClassVar[bool] = True

    def check(self, first: First) -> None:
        """Raise a UserError unless the first recipe has several contexts."""
        if first.contexts < 2:
            raise UserError(
                f"gate=disagreement must have a first recipe with several contexts; '{first.name}' has one. Give it "
                "some, as in adapt-mi(random:k=5,contexts=4, skills:k=5):gate=disagreement."
            )

    def doubt(self, task: Task, said: Prediction) -> float:
        """Return the share of the contexts that say something else; 0 where there was one, as the past is short."""
        return said.disagreement or 0.0

    def most(self, past: Sequence[float]) -> float | None:
        """Return the share."""
        return self.share
