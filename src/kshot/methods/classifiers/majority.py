"""How often each answer has been right so far, whatever the input says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from kshot.core.fields import state
from kshot.core.types import LABELLED, Example, FloatArray, Question, Task
from kshot.methods.contracts import Classifier


@dataclass(frozen=True)
class Majority(Classifier):
    """Predict the frequencies of the answers, p(i) = (n_i + 1) / sum over the candidates j of (n_j + 1).

    n_i counts how often the right answer stood at position i among its row's candidates: for classification
    that is the label, for multiple choice the letter.

    Source: Laplace (1774), the rule of succession, https://doi.org/10.1214/ss/1177013621 (translation).
    Differs: nothing.
    """

    multi_label = True

    _task: Task | None = state()
    _counts: Mapping[int, int] = field(default_factory=dict, repr=False, compare=False)

    def suits(self, task: Task) -> bool:
        """Return whether the task's answers come from a list."""
        return task.kind in (*LABELLED, "multiple_choice")

    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Count the positions of the right answers."""
        counts = Counter(task.candidates(e).index(e.output) for e in examples)
        return replace(self, _task=task, _counts=counts)

    def probabilities(self, questions: Sequence[Question]) -> list[FloatArray]:
        """Return the smoothed frequencies over each row's own number of candidates."""
        assert self._task is not None, "fit comes before probabilities"
        rows = []
        for question in questions:
            positions = range(len(self._task.candidates(question)))
            weights = np.array([self._counts.get(i, 0) + 1.0 for i in positions])
            rows.append(weights / weights.sum())
        return rows
