"""What a study must be: it makes tasks of which the best answer is known, so that recipes can be held against it."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.part import Part
from kshot.core.types import Example, FloatArray, Question, Task


@dataclass(frozen=True)
class Study(Part):
    """A family of tasks with a known best answer (`kshot study NAME`)."""

    @abstractmethod
    def sample(self, n: int, *, rng: np.random.Generator) -> Task:
        """Return one task of the family, with `n` training examples that differ in their inputs.

        Args:
            n: How many, 2 or more; at least two outputs are among them.
            rng: For every random choice.
        """

    @abstractmethod
    def best(self, task: Task, past: Sequence[Example], question: Question) -> FloatArray:
        """Return the probabilities over the question's candidates that no recipe can beat, knowing the past alone.

        They are those of the family: what somebody would say who knows how its tasks are made.
        """

    def teaching(self, task: Task) -> tuple[str, ...] | None:
        """Return the ids of the training examples that are the best demonstrations of their number, in their order.

        After them `best` is as sure of the test examples as after any as many; None where no such set is known.
        """
        return None
