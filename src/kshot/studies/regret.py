"""How much worse demonstrations are than the best ones, where these are known.

The regret of a choice is measured with the best learner there is, the family's posterior (`Study.best`), so that it
tells of the choice and not of a language model. With S the chosen training rows and S* the best set of demonstrations
(`Study.teaching`), on the test rows (x, y), which are no demonstrations:

    bits:      mean of -log2 p(y given x, S) minus mean of -log2 p(y given x, S*)
    accuracy:  the share that S* gets right minus the share that S gets right, equal candidates sharing a point

Both are 0 where the choice tells as much as the best set, and above it where it tells less. A choice of more examples
than S* has can tell as much, and none more where S* leaves a single function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.errors import UserError
from kshot.core.types import Example, FloatArray, Task
from kshot.studies.task_family import Study

TIED = 1e-9  # probabilities that are no further apart are equal


@dataclass(frozen=True)
class Regret:
    """What a choice costs.

    Attributes:
        bits: Above those of the best set, a test row.
        accuracy: Below that of the best set.
        k: Demonstrations in the best set.
        n_shown: Demonstrations in the choice, the mean over test rows.
        found: How many of the best set are in the choice, the mean share over test rows.
    """

    bits: float
    accuracy: float
    k: int
    n_shown: float
    found: float


def best_set(family: Study, task: Task) -> tuple[Example, ...]:
    """Return the best demonstrations of a task, in their order.

    Raises:
        UserError: They are not known.
    """
    ids = family.teaching(task)
    if ids is None:
        raise UserError(
            f"The best demonstrations must be known to measure regret; they are not for the task '{task.name}' of "
            f"{type(family).__name__}. Take a class whose teaching points are known, and more training rows (-n) than "
            "twice these."
        )
    rows = {e.id: e for e in task.train}
    return tuple(rows[i] for i in ids)


def regret(family: Study, task: Task, chosen: Sequence[Sequence[Example]]) -> Regret:
    """Return the regret of a choice.

    Args:
        family: That the task was drawn from.
        task: With test rows.
        chosen: The demonstrations for each test row; for a choice for the whole task, one.

    Raises:
        UserError: The best demonstrations are not known.
    """
    best = best_set(family, task)
    each = chosen if len(chosen) > 1 else [chosen[0]] * len(task.test)
    bits, right = _measured(family, task, each)
    best_bits, best_right = _measured(family, task, [best] * len(task.test))
    ids = {e.id for e in best}
    return Regret(
        bits=float(np.mean(bits - best_bits)),
        accuracy=float(np.mean(best_right - right)),
        k=len(best),
        n_shown=float(np.mean([len(some) for some in each])),
        found=float(np.mean([len(ids & {e.id for e in some}) / len(ids) for some in each])),
    )


def _measured(family: Study, task: Task, each: Sequence[Sequence[Example]]) -> tuple[FloatArray, FloatArray]:
    """Return for each test row the bits of its output, and how right the answer is that is the most probable."""
    bits, right = [], []
    for example, shown in zip(task.test, each, strict=True):
        row, answer = family.best(task, shown, example.question), task.labels.index(example.output)
        tops = row >= row.max() - TIED
        bits.append(-np.log2(row[answer]))
        right.append(tops[answer] / tops.sum())
    return np.array(bits), np.array(right)
