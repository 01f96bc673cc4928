"""Measure an adapted model beyond its metric, with an evaluator; also beside another one, on the same questions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.call import parse_call
from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Task
from kshot.evaluators import EVALUATORS
from kshot.evaluators.evaluator import Evaluator
from kshot.learners.build import check_suits, what_it_takes
from kshot.learners.learner import Setup
from kshot.measures.measured import told
from kshot.methods.roles import load_another
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.reports.html import write_report
from kshot.reports.suite_record import keep_suite
from kshot.store.run_folder import RESULTS
from kshot.store.traces import Traces
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.prepare import DEFAULT_SHOTS


def evaluate(
    adapted: AdaptedModel,
    task: Task,
    suite: str,
    *,
    against: AdaptedModel | None = None,
    limit: int | None = None,
    traces: Traces | None = None,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Return an evaluator's report on an adapted model, with how many of the test rows it has learnt from (`n_learnt`).

    What was measured of units is a mapping with value, low, high (95 %) and n.

    Args:
        adapted: What is measured.
        task: Of the same kind and labels; its test rows are asked.
        suite: An evaluator with its settings, such as "letter-case".
        against: Another system that is asked the same: each measured value has `against`, the other's, and
            `difference`, the first minus the other on the units that both have; and `n_learnt_against` says how many
            of the test rows the other has learnt from.
        limit: Only the first so many test rows.
        traces: Have the models that the suite names (`load_models_of`); by default these are loaded first.
        progress: Told how far it is.

    Raises:
        UserError: An unknown evaluator, or one that does not suit the task or a system; or as `load_models_of` and
            `AdaptedModel.check_rows`.
    """
    evaluator, progress, given = EVALUATORS.build(suite), progress or Silence(), task
    task = adapted.check_rows(given, limit=limit)
    if not evaluator.suits(task):
        raise UserError(f"'{suite}' must suit tasks of kind {task.kind}; it does not. Give another --suite.")
    if obstacle := evaluator.obstacle(task):
        raise UserError(f"--suite {suite} cannot be used on this task: {obstacle}. Give another --suite.")
    systems = [adapted, *((against,) if against else ())]
    for system in systems:
        _check_asked(evaluator, suite, system)
    traces = traces or load_models_of(suite)
    n_learnt, tasks = {"n_learnt": adapted.tell_learnt(task, progress)}, [task]
    if against:  # the same rows, written as each has learnt to answer: "(A)" may be "A" for the other
        tasks.append(against.check_rows(given, limit=limit))
        n_learnt["n_learnt_against"] = against.tell_learnt(tasks[1], progress, " by the system that it is held against")
    seed = adapted.seed
    asked = zip(systems, tasks, strict=True)
    ours, *others = [_found(evaluator, suite, system, own, seed, traces, progress) for system, own in asked]
    theirs = others[0] if others else None
    return {"suite": suite, **n_learnt, **told(ours, theirs, rng=generator(seed, "intervals", suite))}


def load_models_of(suite: str, **placing: Any) -> Traces:
    """Load the further models that the settings of a suite name, such as its judge, before anything is asked.

    Args:
        suite: An evaluator with its settings.
        placing: How the models are loaded: arguments of `load_model`.

    Raises:
        UserError: There is no such model; it names the setting.
    """
    traces, evaluator = Traces(placing=placing), EVALUATORS.build(suite)
    for setting, names in evaluator.named_models.items():
        for name in names:
            load_another(name, traces, f"{parse_call(suite).name}:{setting}")
    return traces


def _check_asked(evaluator: Evaluator, suite: str, system: AdaptedModel) -> None:
    model = system.fitted.model
    if not evaluator.asks_model:
        return
    if model is None or system.fitted.members:  # what all members have beside them is the model before training
        own = "combines recipes, each with a model as it has learnt"
        what = own if system.fitted.members else "has none of its own"
        raise UserError(
            f"--suite {suite} must ask one language model; '{system.recipe.name}' {what}. Evaluate a "
            "system that answers with a language model."
        )
    if lacks := evaluator.needs - model.model.capabilities:
        raise UserError(
            f"--suite {suite} needs a model that can {what_it_takes(lacks)}; '{model.model.name}' cannot. Give "
            "another --suite."
        )


def _found(
    evaluator: Evaluator,
    suite: str,
    system: AdaptedModel,
    task: Task,
    seed: int,
    traces: Traces,
    progress: Progress,
) -> dict[str, Any]:
    """Return what the evaluator tells of a system; all systems, and all settings of a suite, have the same chance."""
    name = parse_call(suite).name
    cases = evaluator.cases(task, rng=generator(seed, "evaluate", name))
    progress.begin(suite, len(cases))
    found: dict[int, Prediction] = {}
    for asked in dict.fromkeys(case.asked for case in cases):
        places = [i for i, case in enumerate(cases) if case.asked == asked]
        examples = [cases[i].example for i in places]
        found |= dict(zip(places, system.asking(asked).predictions(examples, progress=progress.advance), strict=True))
    report = evaluator.report(task, cases, [found[i] for i in range(len(cases))])
    beside = evaluator.beside(task, _model_of(system, traces), rng=generator(seed, "evaluate-model", name))
    return {**report, **beside}


def _model_of(system: AdaptedModel, traces: Traces) -> TaskModel | None:
    """Return the system's language model as it answers: with its notes, trained and steered."""
    model, steering = system.fitted.model, system.steering
    if model is None:
        return None
    model = replace(model, traces=traces, progress=Silence())  # a suite asks in many small pieces
    model = model.noted(system.fitted.notes)
    return model.steered(steering) if steering else model


def fitted(
    recipe: str,
    task: Task,
    model: LanguageModel | None,
    *,
    seed: int = 0,
    layout: str = "auto",
    progress: Progress | None = None,
) -> AdaptedModel:
    """Return a recipe that has learnt a task's training rows, without a race.

    Args:
        recipe: With its settings, such as "random:k=8".
        task: Its training rows are learnt in the order of the stream of `kshot adapt`.
        model: The language model; None will do for classifiers.
        seed: For every random choice.
        layout: Of the prompts.
        progress: Told of the work.

    Raises:
        UserError: No training rows, an unknown recipe, or one that the task or the model does not suit.
    """
    if not task.train:
        raise UserError(
            f"'{recipe}' must learn training rows; '{task.name}' is given as test rows alone. Give a folder with both."
        )
    stream = make_stream(task, limit=len(task.train), seed=seed)
    one = parse_recipe(recipe, shots=min(DEFAULT_SHOTS, len(task.train)))
    asked = replace(TaskModel.for_task(task, model, layout), progress=progress or Silence()) if model else None
    setup = Setup(task, asked, seed)
    check_suits(one, setup)
    if obstacle := one.obstacle(task):
        raise UserError(f"'{one.name}' cannot be used on this task: {obstacle}. Give another recipe.")
    return AdaptedModel.fit(one, stream.examples, setup, choice={})


def keep(
    folder: Path, task: str, report: Mapping[str, Any], *, against: str | None = None, of: str | None = None
) -> None:
    """Keep a report in a finished run and write its HTML again; of a model alone nothing is kept.

    Args:
        folder: Of the system.
        task: The name of the task that was asked.
        report: What `evaluate` has returned.
        against: How the other system was named.
        of: The recipe that the system is of.
    """
    if (folder / RESULTS).exists():
        keep_suite(folder, task, report, against=against, of=of)
        write_report(folder)
