"""What a run would compute, counted by a stand-in for the language model, and how long that would take here."""

from dataclasses import replace
from math import inf
from typing import Any

from kshot.engine.counting import Counting
from kshot.learners.build import lacking, make_learner, rehearsal, trains_selector
from kshot.race.halving import slices
from kshot.race.speed import tokens_per_second
from kshot.verbs.prepare import Prepared


def plan(prepared: Prepared) -> list[dict[str, Any]]:
    """Return what a run would compute if no recipe were dropped. Nothing is trained.

    A row for each recipe: predictions, forward tokens (those that are learnt count as three), steps of training, and
    the minutes that this takes here, by a measurement of 3 seconds. Generated answers count with the most tokens that
    they may have. Of settings that race, the later half of the configurations is the one that is dropped in the plan;
    in the run it may be a more costly one. What a selector asks of the language model in order to learn is counted;
    its training is left out, which `left_out` says.

    Raises:
        UserError: As `adapt`.
    """
    task, stream, models = prepared.task, prepared.stream, prepared.load_models()
    rows = []
    for recipe in prepared.recipes:
        counting = Counting(models.task_model.model)
        judge = replace(models.judge, model=Counting(models.judge.model)) if models.judge else None
        can_run = recipe.suits(task) and not lacking(recipe, task, models.task_model, models.judge)
        if can_run and recipe.needs and not recipe.missing_package:
            subject = replace(models.task_model, model=counting)
            source = models.source and replace(models.source, asker=replace(models.source.asker, model=counting))
            how: Any = {"seed": prepared.settings.seed, "judge": judge, "source": source}
            learner = make_learner(rehearsal(recipe), task, subject, **how)
            for start, stop in slices(len(stream.examples)):
                learner.predict(stream.queries()[start:stop])
        tokens = counting.work.tokens + (judge.model.work.tokens if judge else 0)
        n = len(stream.examples) if can_run else 0
        row = {"recipe": recipe.name, "predictions": n, "forward_tokens": tokens, "training_steps": counting.steps}
        left_out = {"left_out": "the training of its retriever"} if can_run and trains_selector(recipe) else {}
        rows.append(row | left_out)
    if any(row["forward_tokens"] for row in rows):
        shots = max(recipe.k for recipe in prepared.recipes)
        speed = tokens_per_second(models.task_model, stream.examples, min(shots, len(stream.examples) - 1))
    else:
        speed = inf
    return [row | {"minutes": row["forward_tokens"] / speed / 60} for row in rows]
