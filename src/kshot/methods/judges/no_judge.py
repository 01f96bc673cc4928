"""No judge: reasons are taken as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.types import Question
from kshot.methods.judges.judge import Judge
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class NoJudge(Judge):
    """Scores no step.

    Source: kshot.
    Differs: no method of a paper.
    """

    def scores(self, reasons: Sequence[tuple[Question, Sequence[str]]], *, model: TaskModel) -> list[tuple[float, ...]]:
        """Return nothing for each reason."""
        return [() for _ in reasons]
