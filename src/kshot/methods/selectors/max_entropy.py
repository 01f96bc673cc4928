"""The examples that the model doubts most, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.measures.probabilities import normalised
from kshot.methods.contracts import Selector
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class MaxEntropy(Selector):
    """Show the example whose answer is least sure, then the one that is least sure after it, and so on to `k`.

    Each pick is the i with the highest - sum over the labels y of p(y given picks, input i) log p(y given picks,
    input i); it is shown after those before it. What is picked does not depend on its output, what follows does. Costs
    k x candidates scorings at each refit; a model that shares prefixes reads the picks once a round.

    Attributes:
        candidates: The most examples that are asked in each round, drawn from the pool; 1 or more.

    Source: Zhang, Feng and Tan (2022), Active Example Selection for In-Context Learning, the baseline max-entropy,
    https://arxiv.org/abs/2211.04486. A baseline of Wu et al. (2024), https://arxiv.org/abs/2405.16122.
    Differs: among `candidates` that are drawn, not the whole pool; ties go to the first drawn.
    """

    candidates: int = setting(40, least=1, most=100_000)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()

    per_query = False
    draws = True
    needs = frozenset({Capability.SCORE})

    def suits(self, task: Task) -> bool:
        """Return whether answers are chosen from labels, whose entropy is known."""
        return not task.is_open

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: picks begin once `k` is known."""
        return replace(self, _pool=tuple(pool), _model=model)

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices in the order of the picks; the question does not matter."""
        left: list[int] = rng.permutation(len(self._pool))[: max(self.candidates, k)].tolist()
        if k >= len(left):
            return left
        picks: list[int] = []
        for _ in range(k):
            picks.append(left.pop(int(np.argmax(self._doubts(picks, left)))))
        return picks

    def _doubts(self, picks: Sequence[int], left: Sequence[int]) -> FloatArray:
        """Return the entropy of the answer of each that is left after the picks, in nats, `[n_left]`."""
        assert (model := self._model) is not None, "fit comes before select"
        asked, shown = [self._pool[i] for i in left], tuple(self._pool[i] for i in picks)
        prompts = [model.prompt(shown, one)[0] for one in asked]
        model.progress.begin("asking for the selector", len(prompts))
        answers = [model.said(model.answers(one), one) for one in asked]
        rows = map(normalised, model.score(prompts, answers, progress=model.progress.advance))
        return np.round([-(row @ np.log(np.maximum(row, 1e-30))) for row in rows], 9)
