"""Measure an adapted model beyond its metric, with an evaluator; also beside another one, on the same questions."""

from collections.abc import Mapping
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.evaluator import Evaluator
from kshot.measures.measured import told
from kshot.taskmodel.taskmodel import TaskModel


def evaluate(
    adapted: AdaptedModel,
    task: Task,
    suite: str,
    *,
    against: AdaptedModel | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Return an evaluator's report on an adapted model, with how many of the test rows it has learnt from.

    What was measured of units is a mapping with value, low, high (95 %) and n.

    Args:
        adapted: What is measured.
        task: Of the same kind and labels; its test rows are asked.
        suite: An evaluator with its settings, such as "letter-case".
        against: Another system that is asked the same: each measured value has `against`, the other's, and
            `difference`, the first minus the other on the units that both have.
        limit: Only the first so many test rows.
        progress: Told how far it is.

    Raises:
        UserError: An unknown evaluator, one that does not suit the task or a system, or as `AdaptedModel.check_rows`.
    """
    evaluator, progress = EVALUATORS.build(suite), progress or Silence()
    task = adapted.check_rows(task, limit=limit)
    if not evaluator.suits(task):
        raise UserError(f"'{suite}' must suit tasks of kind {task.kind}; it does not. Give another --suite.")
    if obstacle := evaluator.obstacle(task):
        raise UserError(f"--suite {suite} cannot be used on this task: {obstacle}. Give another --suite.")
    systems = [adapted, *((against,) if against else ())]
    for system in systems:
        _check_asked(evaluator, suite, system)
    n_learnt = adapted.tell_learnt(task, progress)
    if against:
        task = against.check_rows(task)
    seed = adapted.seed
    ours, *others = [_found(evaluator, suite, system, task, seed, progress) for system in systems]
    theirs = others[0] if others else None
    return {"suite": suite, "n_learnt": n_learnt, **told(ours, theirs, rng=generator(seed, "intervals", suite))}


def _check_asked(evaluator: Evaluator, suite: str, system: AdaptedModel) -> None:
    model = system.fitted.model
    if not evaluator.asks_model:
        return
    if model is None:
        raise UserError(
            f"--suite {suite} must ask one language model; '{system.recipe.name}' has none of its own. Evaluate a "
            "system that answers with a language model."
        )
    if lacking := evaluator.needs - model.model.capabilities:
        verbs = ", ".join(sorted(one.value for one in lacking))
        raise UserError(
            f"--suite {suite} needs a model that can {verbs}; '{model.model.name}' cannot. Give another --suite."
        )


def _found(
    evaluator: Evaluator, suite: str, system: AdaptedModel, task: Task, seed: int, progress: Progress
) -> dict[str, Any]:
    """Return what the evaluator tells of a system; the same is asked of each with the same seed."""
    cases = evaluator.cases(task, rng=generator(seed, "evaluate", suite))
    progress.begin(suite, len(cases))
    found: dict[int, Prediction] = {}
    for asked in dict.fromkeys(case.asked for case in cases):
        places = [i for i, case in enumerate(cases) if case.asked == asked]
        examples = [cases[i].example for i in places]
        found |= dict(zip(places, system.asking(asked).predictions(examples, progress=progress.advance), strict=True))
    report = evaluator.report(task, cases, [found[i] for i in range(len(cases))])
    beside = evaluator.beside(task, _model_of(system), rng=generator(seed, "evaluate-model", suite))
    return {**report, **beside}


def _model_of(system: AdaptedModel) -> TaskModel | None:
    """Return the system's language model as it answers: with its notes, trained and steered."""
    model, steering = system.fitted.model, system.steering
    model = model and model.noted(system.fitted.notes)
    return model.steered(steering) if model and steering else model
