"""What must hold before a run: stream and recipes from the settings, or what is wrong with them."""

from collections.abc import Sequence

from kshot.core.errors import UserError, missing_extra
from kshot.core.seeding import generator
from kshot.core.types import Task
from kshot.learners.build import lacking, make_learner
from kshot.measures.metrics import check_references
from kshot.measures.samples import check_metrics, primary_metric
from kshot.race.ranking import CHOOSE_BY, PREFER
from kshot.race.stream import Stream, make_stream
from kshot.recipes.recipe import Recipe, parse_recipes
from kshot.taskmodel.taskmodel import TaskModel

DEFAULT_SHOTS, DEFAULT_LIMIT = 16, 300


def prepare(
    task: Task,
    *,
    recipes: str = "all",
    shots: int | None = None,
    seed: int = 0,
    limit: int = DEFAULT_LIMIT,
    with_source: bool = False,
) -> tuple[Stream, tuple[Recipe, ...]]:
    """Return stream and recipes of a run, or raise UserError for whatever is wrong with the settings of `adapt`."""
    if limit < 1:
        raise UserError(f"--limit must be 1 or more; got {limit}.")
    stream = make_stream(task, limit=limit, seed=seed)
    n_pool = len(stream.examples) + len(stream.rest)
    shots = min(DEFAULT_SHOTS, n_pool) if shots is None else shots
    if not 1 <= shots <= n_pool:
        raise UserError(f"--shots must be in 1..{n_pool}, the number of different training examples; got {shots}.")
    chosen = parse_recipes(recipes, shots=shots)
    if with_source:
        chosen = tuple(recipe.aligned() for recipe in chosen)
    check_source(chosen, with_source=with_source)
    if not any(recipe.suits(task) for recipe in chosen):
        raise UserError(f"--recipes must name one for tasks of kind {task.kind}; got '{recipes}'. Try 'all'.")
    for recipe in chosen:
        if recipe.k > n_pool:
            raise UserError(f"{recipe.name}: k must be in 1..{n_pool}, the size of the pool; got {recipe.k}.")
        if recipes != "all" and recipe.missing_package:
            raise missing_extra(recipe.missing_package, "retrieval", f"The recipe '{recipe.name}'")
    if len({e.output for e in task.train}) < 2:
        raise UserError(
            f"A task must have at least two different outputs to choose between; all training examples of "
            f"'{task.name}' have '{task.train[0].output}'."
        )
    check_metrics(task)
    for example in stream.examples:
        check_references(primary_metric(task), example.id, example.accepted)
    return stream, chosen


def check_choice(choose_by: str, prefer: str | None) -> None:
    """Raise UserError unless it is known how to choose."""
    for flag, value, known in (("--choose-by", choose_by, CHOOSE_BY), ("--prefer", prefer, (None, *PREFER))):
        if value not in known:
            raise UserError(f"{flag} must be {' or '.join(k for k in known if k)}; got '{value}'.")


def check_source(recipes: Sequence[Recipe], *, with_source: bool) -> None:
    """Raise UserError unless a source task is given where one is needed, and used where one is given."""
    users = [v.name for r in recipes for v in r.variants if v.training and v.training.align != "none"]
    if users and not with_source:
        raise UserError(f"'{users[0]}' aligns with another task; name it with --source, or leave align out.")
    if with_source and not users:
        raise UserError("--source is for recipes that train weights; name one, as --recipes icl+ft.")


def check_model(
    task: Task,
    stream: Stream,
    recipes: Sequence[Recipe],
    asker: TaskModel,
    judge: TaskModel | None = None,
    *,
    is_named: bool = True,
) -> None:
    """Raise UserError where a model lacks what a recipe needs, if it was named, or an example is too long for it."""
    for recipe in recipes if is_named else ():
        make_learner(recipe, task, asker, seed=0, judge=judge)
    for tuner in (v.tuner for r in recipes for v in r.variants if not lacking(v, task, asker)):
        first = stream.examples[:2]
        for lesson in tuner.lessons(first, lambda: (), step=1, rng=generator(0, "check")) if tuner else ():
            asker.training_text(lesson)
    if any(r.needs for r in recipes):
        for example in stream.examples:
            asker.prompt((example,), example)
        for example in stream.rest:  # these are only shown, and left out where they do not fit
            asker.compose((example,), example)
