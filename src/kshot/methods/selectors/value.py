"""The demonstrations that help most where each is shown alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.types import Example, Question
from kshot.methods.contracts import Selector
from kshot.methods.demonstration_value import bits_after
from kshot.methods.selectors.nearest import nearest_last
from kshot.methods.selectors.ordered_sets import held_out_and_others
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Value(Selector):
    """Take the `k` examples that, each shown alone, save the model most bits on held-out examples; the best last.

    value_i = sum over the held-out examples of log2 p(output given example i and input) - log2 p(output given input).
    Up to `queries` are held out, at most half of what the demonstrations leave, and never shown. Each example is valued
    alone: nothing keeps the chosen from being alike. Costs (n_pool - queries) x queries scorings at each refit.

    Attributes:
        queries: The most held-out examples, 1 or more.

    Source: Li and Qiu (2023), Finding Support Examples for In-Context Learning, the information score,
    https://arxiv.org/abs/2302.13539. A baseline of Wu et al. (2024), https://arxiv.org/abs/2405.16122.
    Differs: the score alone, on one draw of held-out examples, without the progressive filter and the search for
    diversity after it.
    """

    multi_label = True

    queries: int = setting(16, least=1, most=100_000)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()

    per_query = False
    draws = True
    needs = frozenset({Capability.SCORE})

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: how many can be held out is known with `k`."""
        return replace(self, _pool=tuple(pool), _model=model)

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices, the best last; drawn where nothing can be held out. The question does not matter."""
        held_out, others = held_out_and_others(self._pool, k, self.queries, rng=rng)
        if not held_out:
            return others[:k]
        assert self._model is not None, "fit comes before select"
        alone, asked = [(self._pool[i],) for i in others], [self._pool[i] for i in held_out]
        bits = bits_after(alone, asked, self._model).sum(axis=1)  # what each saves, but for a number that all share
        return [others[i] for i in nearest_last(-bits, k)]
