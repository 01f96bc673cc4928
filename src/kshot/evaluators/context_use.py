"""Whether answers come from the passage or from memory, and whether a model does what it is asked to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.types import Example, Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.answer_sources import MEMORY, PASSAGE, SOURCES, came_from, tells_apart
from kshot.measures.measured import Measured

CONTEXT, CLOSED = "context", "closed-book"


@dataclass(frozen=True)
class ContextUse(Evaluator):
    """Ask rows whose passage says something else than memory, and tell where each answer came from.

    Each row is asked as usual, with the intent to answer from memory (which a model that `intent` has trained obeys),
    and closed-book, without its passage. `pair` is the share of rows that are right as usual and from memory: it is at
    most the smaller of the two shares, and says nothing of `intent:ask=memory`, whose usual is memory. (The suite
    `pairs` says both intents to any system.) Rows need
    `memory_answer`; where answers are chosen, it must be among the choices.

    Source: Minder et al. (2024), PairAcc, section 3, https://arxiv.org/abs/2411.07404, and Monea et al. (2024), A
    Glitch in the Matrix? (Fakepedia), https://arxiv.org/abs/2312.02073.
    Differs: answers are compared as SQuAD's, and one that is neither is told.
    """

    def missing_field(self, task: Task) -> str | None:
        """Return what its test rows must have and none has."""
        return None if any(map(tells_apart, task.test)) else "a memory_answer that is another than the output"

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each row that tells the two apart three times; see `kshot.evaluators.evaluator.Evaluator`."""
        rows = [e for e in task.test if tells_apart(e)]
        ways = [(CONTEXT, rows, ""), (MEMORY, rows, "memory")]
        closed = [replace(e, context=None) for e in rows if e.context]
        cases = [Case(e, group, asked) for group, some, asked in ways for e in some]
        return [*cases, *(Case(e, CLOSED) for e in closed)]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return shares of answers by where they came from, PairAcc, and each answer."""
        by_group: dict[str, list[tuple[Example, str | None]]] = {CONTEXT: [], MEMORY: [], CLOSED: []}
        for case, prediction in zip(cases, predictions, strict=True):
            by_group[case.group].append((case.example, prediction.answer))
        found = {
            group: [came_from(answer, e) for e, answer in some] for group, some in by_group.items()
        }  # fmt: skip
        ids = {group: [e.id for e, _ in some] for group, some in by_group.items()}
        context, memory = ([came == want for came in found[g]] for g, want in ((CONTEXT, PASSAGE), (MEMORY, MEMORY)))
        answers = [
            {"id": e.id, "answer": answer, "came_from": came}
            for (e, answer), came in zip(by_group[CONTEXT], found[CONTEXT], strict=True)
        ]
        return {
            "n": len(context),
            **{f"from_{s}": Measured(ids[CONTEXT], [came == s for came in found[CONTEXT]]) for s in SOURCES},
            "memory_when_asked": Measured(ids[MEMORY], memory),
            "pair": Measured(ids[CONTEXT], [a and b for a, b in zip(context, memory, strict=True)]),
            "closed_book": Measured(ids[CLOSED], [came == MEMORY for came in found[CLOSED]]),
            "answers": answers,
        }
