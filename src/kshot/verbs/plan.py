"""What a run would compute, counted by a stand-in for the language model, and how long that would take here."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from kshot.core.prices import parse_prices
from kshot.learners.build import lacking
from kshot.race.halving import slices
from kshot.race.rehearsal import rehearsed
from kshot.race.speed import tokens_per_second
from kshot.recipes.recipe import Recipe
from kshot.verbs.prepare import Prepared

_LEFT_OUT: Mapping[str, Callable[[Recipe], bool]] = {
    "the training of its selector": lambda recipe: recipe.trains_selector,
    "what its service is asked": lambda recipe: recipe.asks_service,
    "what the other models that it names are asked": lambda recipe: any(p.named_models for p in recipe.all_parts),
}


def plan(prepared: Prepared) -> list[dict[str, Any]]:
    """Return what a run would compute if no recipe were dropped. Nothing is trained.

    A row for each recipe: predictions, forward tokens (those that are learnt count as three), steps of training, and
    the minutes that this takes here, by a measurement of 3 seconds. A model behind an API is not asked for that: there
    is no `minutes` then, but `calls`, and with prices `usd`, what the input costs as if nothing were in the server's
    cache; where only the model of `--selector-model` is behind one, both are there, each of its own tokens. Generated
    answers count with the most tokens that they may have. Of settings that race, the later half of the configurations
    is the one that is dropped in the plan; in the run it may be a more costly one. What a selector asks of the language
    model in order to learn is counted; its training is left out, and so is what a decision service is asked, and
    other models in loops and generators, which are not loaded; `left_out` says so.

    Raises:
        UserError: As `adapt`.
    """
    stream, setup, rows, others = prepared.stream, prepared.load_models(with_named=False), [], []
    assert setup.model is not None
    parts = [stream.queries()[start:stop] for start, stop in slices(len(stream.positions))]
    for recipe in prepared.recipes:
        can_run = recipe.suits(prepared.task) and not recipe.obstacle(prepared.task) and not lacking(recipe, setup)
        row: dict[str, Any] = {"recipe": recipe.name, "predictions": len(stream.positions) if can_run else 0}
        tokens, asked, calls, steps = 0, 0, 0, 0
        if can_run and recipe.asks_model and not recipe.missing_package:
            counted = rehearsed(recipe, setup, parts)
            tokens, asked, calls = counted.tokens, counted.asked_tokens, counted.calls
            steps = counted.training_steps
        row |= {"forward_tokens": tokens, "training_steps": steps, **({"calls": calls} if calls else {})}
        left_out = [what for what, is_left in _LEFT_OUT.items() if can_run and is_left(recipe)]
        rows.append(row | ({"left_out": " and ".join(left_out)} if left_out else {}))
        others.append(asked)
    prices = parse_prices(prepared.settings.prices)
    if setup.model.model.is_remote:
        return [row | ({"usd": prices.of(row["forward_tokens"], 0, 0)} if prices else {}) for row in rows]
    run_here = [row["forward_tokens"] for row in rows]
    if setup.selector_model and setup.selector_model.model.is_remote:
        run_here = [n - asked for n, asked in zip(run_here, others, strict=True)]
        rows = [
            row | ({"usd": prices.of(asked, 0, 0)} if prices and asked else {})
            for row, asked in zip(rows, others, strict=True)
        ]
    if any(run_here):
        shots = max(recipe.k for recipe in prepared.recipes)
        speed = tokens_per_second(setup.model, stream.examples, min(shots, len(stream.examples) - 1)) or inf
    else:
        speed = inf
    return [row | {"minutes": n / speed / 60} for row, n in zip(rows, run_here, strict=True)]
