"""What generators, loops and composers make of the past before anything is shown or learnt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.seeding import generator
from kshot.core.types import Example
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Prepared:
    """What a recipe has made of the examples that are known.

    Attributes:
        made: More examples, to be shown or learnt, never scored.
        notes: Shown after the instruction.
        model: The language model, with a composer that knows both.
    """

    made: tuple[Example, ...]
    notes: tuple[str, ...]
    model: TaskModel


def prepared(recipe: Recipe, known: Sequence[Example], model: TaskModel, *, seed: int) -> Prepared:
    """Let generator, loop and composer work on the examples that are known; with fewer than they need, none does.

    Args:
        recipe: Whose methods they are.
        known: The first examples of a stream, as many as the last power of two, or all in the end.
        model: The language model that answers.
        seed: The run's.
    """

    def rng(what: str) -> np.random.Generator:
        return generator(seed, what, len(known))

    made, notes = list[Example](), list[str]()
    if (maker := recipe.part("generator")) and len(known) >= max(1, maker.least):
        found = maker.generate(known, model=model, rng=rng("generate"))
        made += found.examples
        model.note({"generator": recipe.name, "made": len(found.examples), "rejected": len(found.rejected)})
    if (loop := recipe.part("loop")) and len(known) >= max(1, loop.least):
        artefact = loop.run((*known, *made), model=model, rng=rng("loop"))
        made += artefact.demonstrations
        notes += artefact.notes
    composer = recipe.part("composer")
    if composer:
        model = replace(model, composer=composer.fit((*known, *made), model=model, rng=rng("compose")))
    return Prepared(tuple(made), tuple(notes), model.noted(notes) if notes else model)
