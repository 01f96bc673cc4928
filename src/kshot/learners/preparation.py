"""What generators, loops and composers make of the past before anything is shown or learnt."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.errors import UserError
from kshot.core.label_sets import is_written
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.methods.contracts import Made
from kshot.methods.generators.intake import TESTED
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.validate import duplicate_key


@dataclass(frozen=True)
class Prepared:
    """What a recipe has made of the examples that are known.

    Attributes:
        made: More examples, to be shown or learnt, never scored.
        notes: Shown after the instruction.
        model: The language model, with a composer that knows both, told what it says as the tuner tells it.
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
    tested = set(map(duplicate_key, model.task.test)) - set(map(duplicate_key, known))
    if (maker := recipe.part("generator")) and len(known) >= max(1, maker.least):
        found = maker.generate(known, model=model, rng=rng("generate"))
        dropped = [(e.input, TESTED) for e in found.examples if duplicate_key(e) in tested]
        found = Made(_untested(found.examples, tested), (*found.rejected, *dropped))
        made += found.examples
        counts = {"made": len(found.examples), "rejected": len(found.rejected)}
        model.note({"generator": recipe.name, **counts, **({"reasons": found.reasons} if found.rejected else {})})
        _check(made, known, model.task, recipe.name)
    if (loop := recipe.part("loop")) and len(known) >= max(1, loop.least):
        artefact = loop.run((*known, *made), model=model, rng=rng("loop"))
        shown = _untested(artefact.demonstrations, tested)
        if n := len(artefact.demonstrations) - len(shown):
            model.progress.say(f"{recipe.name}: examples of the loop that ask what a row of test asks are dropped: {n}")
        made += shown
        notes += artefact.notes
        _check(made, known, model.task, recipe.name)
        if isinstance(artefact.notes, str) or not all(isinstance(note, str) and note for note in notes):
            raise UserError(f"{recipe.name}: a loop must leave notes as a tuple of texts; got {artefact.notes!r}.")
    composer = recipe.part("composer")
    if composer:
        model = replace(model, composer=composer.fit((*known, *made), model=model, rng=rng("compose")))
    if tuner := recipe.part("tuner"):
        model = replace(model, told=tuner.told)
    return Prepared(tuple(made), tuple(notes), model.noted(notes) if notes else model)


def _untested(made: Sequence[Example], tested: Set[tuple[str, ...]]) -> tuple[Example, ...]:
    return tuple(e for e in made if duplicate_key(e) not in tested)


def _check(made: Sequence[Example], known: Sequence[Example], task: Task, name: str) -> None:
    """Raise a UserError unless examples that were made have ids of their own, a mark, and outputs of the task."""
    ids = {e.id for e in known}
    for e in made:
        if e.id in ids:
            raise UserError(f"{name}: each example that is made must have an id of its own; got '{e.id}' again.")
        if not e.is_made:
            raise UserError(f"{name}: each example that is made must say so in meta[\"made\"]; '{e.id}' does not.")
        is_known = is_written(e.output, task.labels) if task.is_multi_label else e.output in task.candidates(e)
        if not task.is_open and not is_known:
            raise UserError(
                f"{name}: the output of an example that is made must be one of {', '.join(task.candidates(e))}; got "
                f"'{e.output}'."
            )
        ids.add(e.id)
