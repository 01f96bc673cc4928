"""What an evaluator must be: it says what is asked of a finished system, and what the answers mean."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    """Measures a finished system beyond its metric (`kshot evaluate RUN TASK --suite NAME`)."""

    @abstractmethod
    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return what is asked, made from the task's test rows.

        Args:
            task: Its test rows are not empty.
            rng: For every random choice.
        """

    @abstractmethod
    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return what came out, as JSON.

        Args:
            task: Whose test rows were asked.
            cases: What `cases` has returned.
            predictions: The system's, in their order.
        """

    def beside(self, task: Task, model: TaskModel | None, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Return what it measures of the language model itself, as JSON beside the report; most measure nothing.

        Args:
            task: As in `report`.
            model: The language model, trained and steered as it is, on the task that was learnt; None where there is
                none, or several.
            rng: For every random choice.
        """
        return {}
