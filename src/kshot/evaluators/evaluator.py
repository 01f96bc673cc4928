"""What an evaluator must be: it says what is asked of a finished system, and what the answers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kshot.core.part import Part
from kshot.core.types import Example, Prediction, Task
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Case:
    """Something that a finished system is asked.

    Attributes:
        example: What is asked, with the right answer.
        group: What the case belongs to, such as how the input was changed.
        asked: How it is asked, such as "memory", of a system whose tuner knows ways to ask; empty: as usual.
    """

    example: Example
    group: str = ""
    asked: str = ""


@dataclass(frozen=True)
class Evaluator(Part):
    """Measures a finished system beyond its metric (`kshot evaluate RUN TASK --suite NAME`).

    What it measures of units it gives as `kshot.measures.measured.Measured`, anywhere in what it returns: the runner
    makes it JSON with an interval, and with the paired difference where two systems are held against each other.

    What the task must have for it, and has not, it says in words (`missing_field`, or `obstacle`).

    Attributes:
        asks_model: It asks the system's language model about things of its own (`beside`), so there must be one.
    """

    asks_model: ClassVar[bool] = False

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return what is asked, made from the task's test rows; nothing where the language model alone is asked.

        Args:
            task: Its test rows are not empty.
            rng: For every random choice.
        """
        return []

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return what came out, as JSON with `Measured` in it.

        Args:
            task: Whose test rows were asked.
            cases: What `cases` has returned.
            predictions: The system's, in their order.
        """
        return {}

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return what it measures of the language model itself, as JSON beside the report, with `Measured` in it.

        Args:
            task: As in `report`; its training rows may be shown.
            model: The language model, trained and steered as it is, on the task that was learnt (`TaskModel.on` asks
                it about another); None where there is none, or several, which one that `asks_model` never gets.
            rng: For every random choice.
        """
        return {}
