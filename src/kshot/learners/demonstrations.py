"""What a recipe shows: fitted selectors, their choice, its order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, cast

import numpy as np

from kshot.core.errors import UserError
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, Question
from kshot.methods.contracts import Composer, Selector
from kshot.methods.orders import AS_SELECTED, PER_QUERY, ZeroShotBits, ordered
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

Contexts = tuple[tuple[Example, ...], ...]  # each in the order in which it is shown


def fitted(selector: Selector, pool: Sequence[Example], *, model: TaskModel, seed: int) -> Selector:
    """Return the selector fitted on a pool; the same pool and seed give the same one."""
    return selector.fit(pool, model=model, rng=generator(seed, "fit", len(pool)))


def chosen(
    selector: Selector,
    pool: Sequence[Example],
    k: int,
    questions: Sequence[Question | None],
    *,
    seed: int,
    n_contexts: int = 1,
) -> list[list[list[int]]]:
    """Return the contexts that a fitted selector chooses from its pool for each question, as indices.

    None is the whole task. Of one that shows all, other contexts than the first depend on how much it knows alone, so
    that prompts continue each other.
    """

    def rngs(question: Question | None) -> list[np.random.Generator]:
        own = question.id if question else len(pool)
        others = refit_point(len(pool)) if selector.sees_all else own
        return [generator(seed, "select", own), *(generator(seed, "select", others, i) for i in range(1, n_contexts))]

    found = selector.contexts(questions, k, n_contexts, rngs=[rngs(question) for question in questions])
    for indices in (hand for hands in found for hand in hands):
        if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(pool))):
            name = type(selector).__name__
            raise UserError(
                f"A selector must return different indices in 0..{len(pool) - 1}; {name} returned {indices}."
            )
        if len(indices) > k and not selector.sees_all:
            name = type(selector).__name__
            raise UserError(f"A selector must return at most k = {k} indices; {name} returned {len(indices)}.")
    return found


def worded(model: TaskModel, selector: Selector, pool: Sequence[Example], k: int, *, seed: int) -> TaskModel:
    """Return the model with what says the choice that a task-level selector has made from its pool (`chosen`)."""
    rng = generator(seed, "select", len(pool))
    return replace(model, composer=selector.wording(cast(Composer, model.composer), k, rng=rng))


def selected(
    recipe: Recipe, pool: Sequence[Example], question: Question | None, *, model: TaskModel, seed: int
) -> Contexts:
    """Return what a recipe with a selector shows from a pool, for the whole task or for a question, in its order."""
    model = replace(model, composer=recipe.part("composer") or model.composer)
    selector = fitted(recipe.part("selector"), pool, model=model, seed=seed)
    asked = question if selector.per_query else None
    (hands,) = chosen(selector, pool, recipe.k, [asked], seed=seed, n_contexts=recipe.contexts)
    return shown(recipe, pool, hands, question, seed=seed, bits=ZeroShotBits(model))


def shown(
    recipe: Recipe,
    pool: Sequence[Example],
    hands: Sequence[Sequence[int]],
    question: Question | None,
    *,
    seed: int,
    bits: ZeroShotBits,
) -> Contexts:
    """Return the demonstrations of each context in the recipe's order; of contexts that are the same the first.

    A random order depends on what is shown alone, so that equal sets of a task-level selector share their beginning.
    """
    found: dict[tuple[str, ...], tuple[Example, ...]] = {}
    for hand in hands:
        demonstrations = [pool[i] for i in hand]
        rng = generator(seed, "order", *(e.id for e in demonstrations))
        context = ordered(recipe.order, demonstrations, question, rng=rng, bits=bits)
        found.setdefault(tuple(e.id for e in context), context)
    return tuple(found.values())


@dataclass(frozen=True)
class Given(Selector):
    """Shows contexts that were chosen before.

    Attributes:
        ids: Of the examples in each context, in its order.
        others_only: A query is not shown a context that it stands in.
    """

    ids: tuple[tuple[str, ...], ...]
    others_only: bool = False
    _places: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    per_query = True
    sees_all = True
    multi_label = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember where the examples stand in the pool."""
        return replace(self, _places={e.id: i for i, e in enumerate(pool)})

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the first context."""
        return [self._places[i] for i in self.ids[0]]

    def contexts(
        self, questions: Sequence[Question | None], k: int, n: int, *, rngs: Sequence[Sequence[np.random.Generator]]
    ) -> list[list[list[int]]]:
        """Return the contexts."""
        return [
            [[self._places[i] for i in ids] for ids in self.ids if not (self.others_only and q and q.id in ids)]
            for q in questions
        ]


def giving(recipe: Recipe, contexts: Contexts, *, others_only: bool = False) -> Recipe:
    """Return the recipe with contexts that are chosen, in their order; its queries' past are all of their examples.

    Only an order that depends on the question is still to be made. `others_only` is as in `Given`.
    """
    ids = tuple(tuple(e.id for e in context) for context in contexts)
    order = recipe.order if recipe.order in PER_QUERY else AS_SELECTED
    return replace(recipe.having(selector=Given(ids, others_only)), order=order)


def pool_of(contexts: Contexts) -> tuple[Example, ...]:
    """Return the examples that stand in contexts, each once."""
    return tuple({e.id: e for context in contexts for e in context}.values())
