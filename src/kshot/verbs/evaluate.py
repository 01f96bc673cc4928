"""Measure an adapted model beyond its metric, with an evaluator."""

from collections.abc import Mapping
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Task
from kshot.evaluators import EVALUATORS


def evaluate(
    adapted: AdaptedModel, task: Task, suite: str, *, limit: int | None = None, progress: Progress | None = None
) -> Mapping[str, Any]:
    """Return an evaluator's report on an adapted model, with how many of the test rows it has learnt from.

    Args:
        adapted: What is measured.
        task: Of the same kind and labels; its test rows are asked.
        suite: An evaluator with its settings, such as "letter-case".
        limit: Only the first so many test rows.
        progress: Told how far it is.

    Raises:
        UserError: An unknown evaluator, or as `AdaptedModel.check_rows`.
    """
    evaluator, progress = EVALUATORS.build(suite), progress or Silence()
    task = adapted.check_rows(task, limit=limit)
    if not evaluator.suits(task):
        raise UserError(f"'{suite}' must suit tasks of kind {task.kind}; it does not. Give another --suite.")
    n_learnt = adapted.tell_learnt(task, progress)
    cases = evaluator.cases(task, rng=generator(adapted.seed, "evaluate", suite))
    progress.begin(suite, len(cases))
    found: dict[int, Prediction] = {}
    for asked in dict.fromkeys(case.asked for case in cases):
        places = [i for i, case in enumerate(cases) if case.asked == asked]
        examples = [cases[i].example for i in places]
        found |= dict(zip(places, adapted.asking(asked).predictions(examples, progress=progress.advance), strict=True))
    report = evaluator.report(task, cases, [found[i] for i in range(len(cases))])
    model, steering = adapted.fitted.model, adapted.steering
    model = model and model.noted(adapted.fitted.notes)
    steered = model.steered(steering) if model and steering else model
    beside = evaluator.beside(task, steered, rng=generator(adapted.seed, "evaluate-model", suite))
    return {"suite": suite, "n_learnt": n_learnt, **report, **beside}
