"""Whether answers come from the passage or from memory, and whether a model does what it is asked to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.types import Example, Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.answer_sources import MEMORY, PASSAGE, SOURCES, came_from, tells_apart

CONTEXT, CLOSED = "context", "closed-book"


@dataclass(frozen=True)
class ContextUse(Evaluator):
    """Ask rows whose passage says something else than memory, and tell where each answer came from.

    Each row is asked as usual, with the intent to answer from memory (which a model that `intent` has trained obeys),
    and closed-book, without its passage. `pair` is the share of rows that are right as usual and from memory: it is at
    most the smaller of the two shares, and says nothing of `intent:ask=memory`, whose usual is memory. Rows need
    `memory_answer`; where answers are chosen, it must be among the choices.

    Source: Minder et al. (2024), PairAcc, section 3, https://arxiv.org/abs/2411.07404, and Monea et al. (2024), A
    Glitch in the Matrix? (Fakepedia), https://arxiv.org/abs/2312.02073.
    Differs: answers are compared as SQuAD's, and one that is neither is told.
    """

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each row that tells the two apart three times; see `kshot.evaluators.evaluator.Evaluator`.

        Raises:
            UserError: No row does.
        """
        rows = [e for e in task.test if tells_apart(e)]
        if not rows:
            raise UserError(
                "Some test row must have memory_answer, another than its output, so that it can be told where an "
                "answer came from; none has. Add it, or give another --suite."
            )
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
        context, memory = ([came == want for came in found[g]] for g, want in ((CONTEXT, PASSAGE), (MEMORY, MEMORY)))
        answers = [
            {"id": e.id, "answer": answer, "came_from": came}
            for (e, answer), came in zip(by_group[CONTEXT], found[CONTEXT], strict=True)
        ]
        return {
            "n": len(context),
            **{f"from_{source}": _share([came == source for came in found[CONTEXT]]) for source in SOURCES},
            "memory_when_asked": _share(memory),
            "pair": _share([a and b for a, b in zip(context, memory, strict=True)]),
            "closed_book": _share([came == MEMORY for came in found[CLOSED]]) if found[CLOSED] else None,
            "answers": answers,
        }


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
