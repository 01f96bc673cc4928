"""Whether one and the same question is answered from its context when asked to, and from memory when asked to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kshot.core.intents import INTENTS, conflicting, told
from kshot.core.types import Example, Prediction, Task
from kshot.evaluators.evaluator import Case, Evaluator
from kshot.measures.measured import Measured
from kshot.methods.skill_profile import is_wrong


@dataclass(frozen=True)
class Pairs(Evaluator):
    """Ask each row with both intents, and count the rows that are right under both (PairAcc).

    An intent is a sentence after the context: "Answer from the context." or "Ignore the context and answer from what
    you know." It is said to every system, whatever it has learnt; the tuner `intent` learns these very sentences, and
    does not say them twice. `pair_accuracy` is at most the smaller of the two accuracies. A system that always answers
    in one way has one of them at 1 and `pair_accuracy` 0; `same_answer` is the share of rows with the same answer
    under both.

    A row needs a context and a `memory_answer` that is another than its output, for the task's metric too; where
    answers are chosen, both must be among the choices.

    Source: Minder et al. (2024), Controllable Context Sensitivity and the Knob Behind It, section 3,
    https://arxiv.org/abs/2411.07404.
    Differs: the user's own rows; an answer is right where its score by the task's metric is a half or more.
    """

    def missing_field(self, task: Task) -> str | None:
        """Return what its test rows must have and none has."""
        if _told_apart(task):
            return None
        other = "that is another than the output" if task.is_open else "that is another of the possible answers"
        return f"a context and a memory_answer {other}"

    def cases(self, task: Task, *, rng: np.random.Generator) -> list[Case]:
        """Return each row with both intents; see `kshot.evaluators.evaluator.Evaluator`."""
        return [Case(told(e, intent), intent) for intent in INTENTS for e in _told_apart(task)]

    def report(self, task: Task, cases: Sequence[Case], predictions: Sequence[Prediction]) -> Mapping[str, Any]:
        """Return the accuracy under each intent and under both, how often the answers are the same, and the answers."""
        asked = list(zip(cases, predictions, strict=True))
        context, memory = ([pair for pair in asked if pair[0].group == intent] for intent in INTENTS)
        ids = [case.example.id for case, _ in context]
        right = [[float(not is_wrong(task, c.example, p.answer or "")) for c, p in some] for some in (context, memory)]
        answers = [(a.answer or "", b.answer or "") for (_, a), (_, b) in zip(context, memory, strict=True)]
        return {
            "n": len(ids),
            "pair_accuracy": Measured(ids, np.min(right, axis=0)),
            "context_accuracy": Measured(ids, right[0]),
            "memory_accuracy": Measured(ids, right[1]),
            "same_answer": Measured(ids, [a.strip().casefold() == b.strip().casefold() for a, b in answers]),
            "answers": [{"id": i, "context": a, "memory": b} for i, (a, b) in zip(ids, answers, strict=True)],
        }


def _told_apart(task: Task) -> list[Example]:
    """Return the test rows that no one answer is right for under both intents: "The Beatles" and "Beatles" are one."""
    return [
        e
        for e in conflicting(task.test, task)
        if is_wrong(task, e, told(e, "memory").output) and is_wrong(task, told(e, "memory"), e.output)
    ]
