"""Whether capital letters change the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.types import Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Measured
from kshot.measures.samples import score_of


@dataclass(frozen=True)
class LetterCase(Evaluator):
    """Ask each input as it is, in small letters and in capitals, and tell the score of each and how many answers stay.

    Source: Ribeiro et al. (2020), CheckList, invariance tests, https://arxiv.org/abs/2005.04118.
    Differs: letter case alone; every test row instead of templates.
    """

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each test row three times; see `kshot.evaluators.evaluator.Evaluator`."""
        ways = {"as-given": str, "lower": str.lower, "upper": str.upper}
        return [Case(replace(e, input=way(e.input)), name) for name, way in ways.items() for e in task.test]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return the mean score of each group, and the share of answers that are those to the inputs as given."""
        n = len(cases) // 3
        given, found = [p.answer for p in predictions[:n]], {}
        for start in range(0, len(cases), n):
            some = list(zip(cases[start : start + n], predictions[start : start + n], strict=True))
            scores = [score_of(task, c.example, str(p.answer)) for c, p in some]
            same = [p.answer == before for (_, p), before in zip(some, given, strict=True)]
            ids = [c.example.id for c, _ in some]
            found[cases[start].group] = {"score": Measured(ids, scores), "same": Measured(ids, same)}
        return {"metric_name": task.metrics[0], "n": n, **found}
