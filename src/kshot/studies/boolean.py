"""Rules on rows of digits, such as conjunctions: tasks of which the best demonstrations are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.studies.task_family import Study
from kshot.tasks.boolean_functions import BOOLEAN_CLASSES, LEAST_D, MOST_D, boolean_class, check_boolean
from kshot.tasks.function_classes import FunctionClass


@dataclass(frozen=True)
class Boolean(Study):
    """Draw a Boolean function of a class, and rows of digits with what it says: yes or no.

    All other rows of digits are test rows. The points that teach the function, if they are known, are among the
    training rows (of a conjunction of k literals k + 2 points, or k + 1 if it is monotone), so that the best set of
    demonstrations of that size is known. The best answer is the posterior over all functions of the class, with the
    inputs as they come: in classes of equally probable functions the share of those still possible that say so.

    Attributes:
        of: The class (`kshot.tasks.boolean_functions.boolean_class`).
        d: Digits in a row.

    Source: Bhattamishra et al. (2023), Understanding In-Context Learning in Transformers and LLMs by Learning to Learn
    Discrete Functions, https://arxiv.org/abs/2310.03016.
    Differs: inputs are drawn without repetition, 30 % of them with the rarer output, whichever that is.
    """

    of: str = setting("conjunction", choices=BOOLEAN_CLASSES)
    d: int = setting(6, least=LEAST_D, most=MOST_D)

    def __post_init__(self):
        super().__post_init__()
        check_boolean(self.of, self.d)

    @property
    def functions(self) -> FunctionClass:
        """The class of functions."""
        return boolean_class(self.of, self.d)

    def sample(self, n: int, *, rng: np.random.Generator) -> Task:
        """Return a task; see `kshot.studies.task_family.Study`."""
        return self.functions.task("boolean", n, rng=rng)

    def best(self, task: Task, past: Sequence[Example], question: Question) -> FloatArray:
        """Return what the posterior says; see `kshot.studies.task_family.Study`."""
        return self.functions.told(past, [question])[0]

    def teaching(self, task: Task) -> tuple[str, ...] | None:
        """Return the points that teach the function; see `kshot.studies.task_family.Study`."""
        return self.functions.taught(task)
