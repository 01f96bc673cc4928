"""Measure an adapted model beyond its metric, with an evaluator."""

from collections.abc import Mapping
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import generator
from kshot.core.types import Task
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
    predictions = adapted.predictions([case.example for case in cases], progress=progress.advance)
    found = evaluator.report(task, cases, predictions)
    model, steering = adapted.fitted.model, adapted.steering
    model = model and model.noted(adapted.fitted.notes)
    asked = model.steered(steering) if model and steering else model
    beside = evaluator.beside(task, asked, rng=generator(adapted.seed, "evaluate-model", suite))
    return {"suite": suite, "n_learnt": n_learnt, **found, **beside}
