"""What a run would compute, counted by a stand-in for the language model, and how long that would take here."""

from dataclasses import replace
from math import inf
from typing import Any

from kshot.core.ledger import Ledger
from kshot.core.models import LanguageModel
from kshot.core.types import Task
from kshot.engine.counting import Counting
from kshot.learners.build import lacking, make_learner
from kshot.learners.trained import Source
from kshot.race.halving import slices
from kshot.race.speed import tokens_per_second
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.prepare import DEFAULT_LIMIT, check_model, prepare


def plan(
    task: Task,
    model: LanguageModel,
    *,
    recipes: str = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = DEFAULT_LIMIT,
    layout: str = "auto",
    selector_model: LanguageModel | None = None,
    source: Task | None = None,
) -> list[dict[str, Any]]:
    """Return what `adapt` with these settings would compute if no recipe were dropped.

    A row for each recipe: predictions, forward tokens (those that are learnt count as three), steps of training, and
    the minutes that this takes here, by a measurement of 3 seconds. Generated answers count with the most tokens that
    they may have. Of settings that race, the later half of the configurations is the one that is dropped in the plan;
    in the run it may be a more costly one.
    Args: and Raises: as `adapt`.
    """
    stream, chosen_recipes = prepare(
        task, recipes=recipes, shots=shots, seed=seed, limit=limit, with_source=source is not None
    )
    asker = TaskModel.for_task(task, model, layout)
    judge_asker = TaskModel.for_task(task, selector_model) if selector_model else None
    check_model(task, stream, chosen_recipes, asker, judge_asker, is_named="all" not in recipes)
    rows = []
    for recipe in chosen_recipes:
        counting, judging = Counting(model), Counting(selector_model) if selector_model else None
        ledger = Ledger()
        can_run = recipe.suits(task) and not lacking(recipe, task, asker, judge_asker)
        if can_run and recipe.needs and not recipe.missing_package:
            judge = replace(TaskModel.for_task(task, judging), ledger=ledger) if judging else None
            aligned = Source(TaskModel.for_task(source, counting, layout), source.train) if source else None
            asked = replace(asker, model=counting, ledger=ledger)
            learner = make_learner(recipe, task, asked, seed=seed, judge=judge, source=aligned)
            for start, stop in slices(len(stream.examples)):
                learner.predict(stream.queries()[start:stop])
        n = len(stream.examples) if can_run else 0
        rows.append(
            {
                "recipe": recipe.name,
                "predictions": n,
                "forward_tokens": ledger.cost.tokens,
                "training_steps": counting.steps,
            }
        )
    if any(row["forward_tokens"] for row in rows):
        shots = max(recipe.k for recipe in chosen_recipes)
        speed = tokens_per_second(asker, stream.examples, min(shots, len(stream.examples) - 1))
    else:
        speed = inf
    return [row | {"minutes": row["forward_tokens"] / speed / 60} for row in rows]
