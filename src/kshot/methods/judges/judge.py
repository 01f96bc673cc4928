"""What a judge of reasons must be, and what the steps of a reason are."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.part import Part
from kshot.core.types import Question
from kshot.taskmodel.taskmodel import TaskModel

_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=\S)")


@dataclass(frozen=True)
class Judge(Part):
    """Says how good each step of a reason is: one of a user's own can ask a reward model, or run rules."""

    @abstractmethod
    def scores(self, reasons: Sequence[tuple[Question, Sequence[str]]], *, model: TaskModel) -> list[tuple[float, ...]]:
        """Return for each reason a score in 0..1 for each of its steps, or nothing for none of them.

        Args:
            reasons: A question, and the steps of the reason that was written of it (`steps_of`).
            model: The model that has written them.
        """


def steps_of(reason: str) -> list[str]:
    """Return the steps of a reason: its lines, or the sentences of its only one.

    Example:
        >>> steps_of("He has 1.5 of them. So 3 in all.")
        ['He has 1.5 of them.', 'So 3 in all.']
    """
    lines = [line for line in reason.split("\n") if line.strip()]
    return _SENTENCES.split(lines[0]) if len(lines) == 1 else lines
