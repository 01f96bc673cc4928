"""Whether answers follow the context, where the same words have another label in another one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.types import Example, Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Measured
from kshot.measures.text_metrics import squad_exact_match

WITH, WITHOUT = "with", "without"


@dataclass(frozen=True)
class ContextFlips(Evaluator):
    """Ask rows that have the same input in two contexts, with two labels, with and without their contexts.

    Rows are taken in pairs. `pairs` is the share of pairs of which both are right; `with_context` and
    `without_context` are shares of rows. Without contexts the two of a pair are the same question, and get the same
    answer: `without_context` is at most 0.5, and exactly that where every answer is one of its pair's two labels, as
    with two labels it always is. Rows that have no partner are left out, and counted.

    Source: an analogue of Zhou et al. (2023), COBRA Frames, the twins with and without context,
    https://arxiv.org/abs/2306.01985.
    Differs: one model asked twice, in place of two that were trained.
    """

    def missing_field(self, task: Task) -> str | None:
        """Return what its test rows must have and none has."""
        if pairs_of(task.test):
            return None
        return "the same input in another context, with another output (kshot generate --method flips makes some)"

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return the rows of each pair twice; see `kshot.evaluators.evaluator.Evaluator`."""
        rows = [e for pair in pairs_of(task.test) for e in pair]
        return [*(Case(e, WITH) for e in rows), *(Case(replace(e, context=None), WITHOUT) for e in rows)]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return the shares, and how many rows have no partner."""
        right = {WITH: list[bool](), WITHOUT: list[bool]()}
        for case, prediction in zip(cases, predictions, strict=True):
            right[case.group].append(_is_right(task, case.example, prediction.answer or ""))
        ids = [case.example.id for case in cases if case.group == WITH]
        both = [a and b for a, b in zip(right[WITH][::2], right[WITH][1::2], strict=True)]
        return {
            "n_pairs": len(both),
            "with_context": Measured(ids, right[WITH]),
            "without_context": Measured(ids, right[WITHOUT]),
            "pairs": Measured([" and ".join(pair) for pair in zip(ids[::2], ids[1::2], strict=True)], both),
            "n_without_partner": len(task.test) - len(right[WITH]),
        }


def _is_right(task: Task, example: Example, answer: str) -> bool:
    """Return whether an answer is the output; texts are compared but for case, punctuation and articles."""
    return bool(squad_exact_match((example.output,), answer)) if task.is_open else answer == example.output


def pairs_of(rows: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Return pairs of rows with the same input, another context and another output; a row is in one pair at most."""
    waiting: dict[str, list[Example]] = {}
    pairs = []
    for e in rows:
        own = waiting.setdefault(" ".join(e.input.split()), [])
        partner = next((o for o in own if e.context and o.context != e.context and o.output != e.output), None)
        if partner:
            own.remove(partner)
            pairs.append((partner, e))
        elif e.context:
            own.append(e)
    return pairs
