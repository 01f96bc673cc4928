"""What a recipe shows: fitted selectors, their choice, its order."""

from collections.abc import Sequence
from dataclasses import replace

from kshot.core.errors import UserError
from kshot.core.methods import Judge, Selector
from kshot.core.seeding import generator
from kshot.core.types import Example
from kshot.methods.orders import AS_SELECTED, PER_QUERY, ZeroShotBits, ordered
from kshot.methods.selectors.all_past import AllPast
from kshot.recipes.recipe import Recipe


def fitted(selector: Selector, pool: Sequence[Example], *, judge: Judge, seed: int) -> Selector:
    """Return the selector fitted on a pool; the same pool and seed give the same one."""
    return selector.fit(pool, judge=judge, rng=generator(seed, "fit", len(pool)))


def chosen(selector: Selector, pool: Sequence[Example], k: int, query: Example | None, *, seed: int) -> list[int]:
    """Return what a fitted selector chooses from its pool for a query, or for the whole task, as indices."""
    indices = selector.select(query, k, rng=generator(seed, "select", query.id if query else len(pool)))
    if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(pool))):
        name = type(selector).__name__
        raise UserError(f"A selector must return different indices in 0..{len(pool) - 1}; {name} returned {indices}.")
    return indices


def selected(
    recipe: Recipe, pool: Sequence[Example], query: Example | None, *, judge: Judge, seed: int
) -> tuple[Example, ...]:
    """Return what a recipe with a selector shows from a pool, for the whole task or for a query, in its order."""
    assert recipe.selector is not None
    selector = fitted(recipe.selector, pool, judge=judge, seed=seed)
    indices = chosen(selector, pool, recipe.k, query if selector.per_query else None, seed=seed)
    return shown(recipe, [pool[i] for i in indices], query, seed=seed, bits=ZeroShotBits(judge))


def shown(
    recipe: Recipe, demonstrations: Sequence[Example], query: Example | None, *, seed: int, bits: ZeroShotBits
) -> tuple[Example, ...]:
    """Return the demonstrations in the recipe's order.

    A random order depends on what is shown alone, so that equal sets of a task-level selector share their beginning.
    """
    rng = generator(seed, "order", *(e.id for e in demonstrations))
    return ordered(recipe.order, demonstrations, query, rng=rng, bits=bits)


def showing_all(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe with a past of `n` chosen demonstrations: all are shown, in their order.

    Only an order that depends on the query is still to be made.
    """
    order = recipe.order if recipe.order in PER_QUERY else AS_SELECTED
    return replace(recipe, selector=AllPast(limit=max(1, n)), order=order)
