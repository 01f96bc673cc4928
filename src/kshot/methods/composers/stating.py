"""Answers that say how sure they are: the model writes a number beside each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer
from kshot.methods.stated_confidence import apart, stating

NOTE = "After the answer, say from 0.00 to 1.00 how sure you are of it."


@dataclass(frozen=True)
class Stated(Composer):
    """Ask for a number beside each answer, as in "blue (confidence 0.75)": how sure the model says that it is.

    The number is not part of the answer that is compared with the known one; it stands in `stated` of a prediction, and
    `kshot evaluate RUN TASK --suite confidence` tells whether it holds. Known answers are shown, scored and learnt with
    1.00: a model that learns them alone is sure of all. The teacher `calibrated` teaches better numbers.

    Source: Lin et al. (2022), Teaching Models to Express Their Uncertainty in Words, https://arxiv.org/abs/2205.14334.
    Differs: the number stands in brackets after the answer.
    """

    def suits(self, task: Task) -> bool:
        """Return whether answers are texts; where they are chosen from a list each has a probability."""
        return task.is_open

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, with all demonstrations in the order given, the last one next to the question."""
        sure = [replace(e, output=self.said(task, e.output, e.question)) for e in shown]
        return UsualWording().compose(task, sure, question).noted((NOTE,))

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return an answer with its number; one that has none is a known one."""
        return answer if apart(answer)[1] is not None else stating(answer, 1.0)

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return the answer without its number."""
        return apart(text)[0]

    def stated(self, text: str) -> float | None:
        """Return the number."""
        return apart(text)[1]
