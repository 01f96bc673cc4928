"""Demonstrations from whose steps of training the rest of the pool would gain most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.fields import setting, state
from kshot.core.gradient_settings import OF, GradientSettings
from kshot.core.models import Capability
from kshot.core.types import Example, FloatArray, Question
from kshot.methods.contracts import Selector
from kshot.methods.selectors.nearest import nearest_last
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Less(GradientSettings, Selector):
    """Take the `k` examples whose steps of AdamW point most in the direction of the others' gradients, the best last.

    score_i = sum over the snapshots c of the mean over the examples j other than i of cos(step_ic, g_jc), with g the
    gradient of a loss with respect to adapters and step the direction of the step that AdamW would make on it. Nothing
    keeps the chosen from being alike. Costs twice epochs + snapshots forward and backward passes over the pool, and
    8 x n_pool x snapshots x dim bytes on disk.

    Source: Xia et al. (2024), LESS, https://arxiv.org/abs/2402.04333, and its official code.
    Differs: the others in the pool take the place of the task's validation examples; adapters of rank 2 instead of a
    projection of larger ones; the warm-up trains on the whole pool.
    """

    of: str = setting("lora", choices=OF)
    rank: int = setting(2, least=1, most=1024)
    snapshots: int = setting(4, least=1, most=1000)
    epochs: int = setting(4, least=1, most=1000)
    lr: float = setting(3e-4, least=0)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()
    _seed: int = state(0)

    per_query = False
    needs = frozenset({Capability.GRADIENTS})

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: where all examples are shown, no gradient is needed."""
        return replace(self, _pool=tuple(pool), _model=model, _seed=int(rng.integers(2**32)))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices, the best last (all of a smaller pool in its order); the question does not matter."""
        if k == 0 or k >= len(self._pool):
            return list(range(len(self._pool)))[:k]
        assert self._model is not None, "fit comes before select"
        how = replace(self.settings, adam=False)
        gradients = self._model.gradients(self._pool, how, seed=self._seed)
        steps = gradients
        if how.of != "last-block":  # which is not trained: there are no steps
            steps = self._model.gradients(self._pool, replace(how, adam=True), seed=self._seed)
        return nearest_last(influences(steps, gradients, len(how.snapshot_steps(len(self._pool)))), k)


def influences(steps: NDArray[np.float32], gradients: NDArray[np.float32], n_blocks: int) -> FloatArray:
    """Return the score of each row of `steps`, as in `Less`, from arrays `[n_pool, n_blocks * dim]`."""
    n_pool, width = steps.shape
    scores = np.zeros(n_pool)
    for columns in np.split(np.arange(width), n_blocks):
        block = slice(columns[0], columns[-1] + 1)
        total = sum((_unit(row[block]) for row in gradients), np.zeros(len(columns)))  # [dim]
        for i, (step, own) in enumerate(zip(steps, gradients, strict=True)):
            scores[i] += _unit(step[block]) @ (total - _unit(own[block])) / (n_pool - 1)
    return np.round(scores, 6)  # equal texts tie, whose gradients differ by rounding


def _unit(row: NDArray[np.float32]) -> FloatArray:
    values = row.astype(np.float64)
    return values / max(float(np.linalg.norm(values)), 1e-30)
