"""A memory of trajectories, looked up by what was asked, what was the case, and what was done."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.types import Example, FloatArray
from kshot.retrieval.lexical import LexicalIndex

ALIKE = (1 / 3, 1 / 3, 1 / 3)


@dataclass(frozen=True)
class Remembered:
    """A trajectory.

    Attributes:
        task: What was to be done.
        state: What was the case before.
        actions: What was done.
        example: Where it comes from.
    """

    task: str
    state: str
    actions: str
    example: Example


def remembered(example: Example) -> Remembered:
    """Return an example as a trajectory: the first sentence of its input is the task, the rest the state."""
    task, _, state = example.text.partition(". ")
    return Remembered(task, state, example.output, example)


class TrajectoryMemory:
    """Trajectories, found by the weighed sum of three likenesses.

    Each likeness is the BM25 score of a part of the query against that of a trajectory, over the score of the query
    against itself, which is 1 for the same words.

    Args:
        rows: What is remembered.
        weights: Of task, state and actions.

    Source: Sarch et al. (2024), ICAL, https://arxiv.org/abs/2406.14596.
    Differs: words in place of embeddings; no images.
    """

    def __init__(self, rows: Sequence[Remembered], weights: tuple[float, float, float] = ALIKE):
        self._rows, self._weights = list(rows), weights

    def likeness(self, task: str, state: str, actions: str = "") -> FloatArray:
        """Return the likeness of each trajectory, `[n_rows]`; an empty part likens nothing."""
        whole = np.zeros(len(self._rows))
        for weight, name, asked in zip(
            self._weights, ("task", "state", "actions"), (task, state, actions), strict=True
        ):
            if asked:
                texts = [getattr(row, name) for row in self._rows]
                *scores, own = LexicalIndex([*texts, asked]).scores(asked)
                whole += weight * np.array(scores) / own if own > 0 else 0.0
        return whole

    def looked_up(self, task: str, state: str, actions: str = "", *, k: int = 3) -> list[Example]:
        """Return the `k` trajectories most like it, the most like one first; of equals the newer one."""
        likeness = self.likeness(task, state, actions)
        order = sorted(range(len(self._rows)), key=lambda i: (-likeness[i], -i))
        return [self._rows[i].example for i in order[:k]]
