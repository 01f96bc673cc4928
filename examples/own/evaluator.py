"""An evaluator: measures a finished model beyond its metric."""

from dataclasses import dataclass, replace

import kshot


@dataclass(frozen=True)
class Shouted(kshot.Evaluator):
    """Ask each test row with an exclamation mark, and count the right answers."""

    def cases(self, task, *, rng):
        """Return what is asked."""
        return [kshot.Case(replace(e, input=f"{e.input}!")) for e in task.test]

    def report(self, task, cases, predictions):
        """Return what came out, as JSON."""
        right = [p.answer == case.example.output for case, p in zip(cases, predictions, strict=True)]
        return {"n": len(cases), "accuracy": sum(right) / len(cases)}
