"""Linear functions with whole weights, alone or as a mixture: tasks of which the best demonstrations are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.studies.task_family import Study
from kshot.tasks.function_classes import FunctionClass
from kshot.tasks.integer_functions import INTEGER_CLASSES, LEAST_D, MOST_D, integer_class


@dataclass(frozen=True)
class Prism(Study):
    """Draw a linear function with whole weights of a class, and rows of numbers with its value, said as a number.

    All other rows of numbers are test rows. The points that teach the function are among the training rows, so that the
    best set of demonstrations of that size is known. The best answer is the posterior over all functions of the class.

    Attributes:
        of: The class (`kshot.tasks.integer_functions.integer_class`).
        d: Numbers in a row.

    Source: Panwar et al. (2023), In-Context Learning through the Bayesian Prism, https://arxiv.org/abs/2306.04891.
    Differs: whole weights and inputs of -1, 0 and 1, so that values are few enough to be labels, and the posterior is
    exact.
    """

    of: str = setting("mixture", choices=INTEGER_CLASSES)
    d: int = setting(4, least=LEAST_D, most=MOST_D)

    @property
    def functions(self) -> FunctionClass:
        """The class of functions."""
        return integer_class(self.of, self.d)

    def sample(self, n: int, *, rng: np.random.Generator) -> Task:
        """Return a task; see `kshot.studies.task_family.Study`."""
        return self.functions.task("prism", n, rng=rng)

    def best(self, task: Task, past: Sequence[Example], question: Question) -> FloatArray:
        """Return what the posterior says; see `kshot.studies.task_family.Study`."""
        return self.functions.told(past, [question])[0]

    def teaching(self, task: Task) -> tuple[str, ...] | None:
        """Return the points that teach the function; see `kshot.studies.task_family.Study`."""
        return self.functions.taught(task)
