"""What a recipe shows: fitted selectors, their choice, its order."""

from collections.abc import Sequence
from dataclasses import replace

from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Example, Question
from kshot.methods.contracts import Selector
from kshot.methods.orders import AS_SELECTED, PER_QUERY, ZeroShotBits, ordered
from kshot.methods.selectors.all_past import AllPast
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel


def fitted(selector: Selector, pool: Sequence[Example], *, model: TaskModel, seed: int) -> Selector:
    """Return the selector fitted on a pool; the same pool and seed give the same one."""
    return selector.fit(pool, model=model, rng=generator(seed, "fit", len(pool)))


def chosen(
    selector: Selector, pool: Sequence[Example], k: int, questions: Sequence[Question | None], *, seed: int
) -> list[list[int]]:
    """Return what a fitted selector chooses from its pool for each question, as indices; None is the whole task."""
    rngs = [generator(seed, "select", q.id if q else len(pool)) for q in questions]
    known = [q for q in questions if q is not None]
    if len(known) == len(questions):
        found = selector.select_all(known, k, rngs=rngs)
    else:
        found = [selector.select(q, k, rng=rng) for q, rng in zip(questions, rngs, strict=True)]
    for indices in found:
        if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(pool))):
            name = type(selector).__name__
            raise UserError(
                f"A selector must return different indices in 0..{len(pool) - 1}; {name} returned {indices}."
            )
        if len(indices) > k and not selector.sees_all:
            name = type(selector).__name__
            raise UserError(f"A selector must return at most k = {k} indices; {name} returned {len(indices)}.")
    return found


def selected(
    recipe: Recipe, pool: Sequence[Example], question: Question | None, *, model: TaskModel, seed: int
) -> tuple[Example, ...]:
    """Return what a recipe with a selector shows from a pool, for the whole task or for a question, in its order."""
    selector = fitted(recipe.part("selector"), pool, model=model, seed=seed)
    (indices,) = chosen(selector, pool, recipe.k, [question if selector.per_query else None], seed=seed)
    return shown(recipe, [pool[i] for i in indices], question, seed=seed, bits=ZeroShotBits(model))


def shown(
    recipe: Recipe, demonstrations: Sequence[Example], question: Question | None, *, seed: int, bits: ZeroShotBits
) -> tuple[Example, ...]:
    """Return the demonstrations in the recipe's order.

    A random order depends on what is shown alone, so that equal sets of a task-level selector share their beginning.
    """
    rng = generator(seed, "order", *(e.id for e in demonstrations))
    return ordered(recipe.order, demonstrations, question, rng=rng, bits=bits)


def showing_all(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe with a past of `n` chosen demonstrations: all are shown, in their order.

    Only an order that depends on the question is still to be made.
    """
    order = recipe.order if recipe.order in PER_QUERY else AS_SELECTED
    return replace(recipe.having(selector=AllPast(limit=max(1, n))), order=order)
