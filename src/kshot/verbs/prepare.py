"""What must hold before a run: its data, recipes and models from the settings, or what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from kshot.core.api_settings import is_api
from kshot.core.budget import parse_budget
from kshot.core.call import split_list
from kshot.core.errors import TooLongError, UserError, missing_extra
from kshot.core.settings import RunSettings, parse_columns
from kshot.core.types import Task
from kshot.engine.load_model import is_placed, load_model
from kshot.learners.build import lacking, make_learner
from kshot.learners.learner import Setup, Source
from kshot.measures.abstention import check_can_abstain, check_enough
from kshot.measures.metrics import check_references
from kshot.measures.samples import check_metrics, primary_metric
from kshot.methods.roles import another
from kshot.race.stream import Stream, make_stream
from kshot.recipes.grammar import parse_recipes
from kshot.recipes.recipe import Recipe
from kshot.store.traces import Traces
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import given_task

DEFAULT_SHOTS = 16


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: nothing is wrong with its settings and its data, and no model is loaded yet."""

    settings: RunSettings
    task: Task
    source: Task | None
    stream: Stream
    recipes: tuple[Recipe, ...]

    def load_models(self, *, with_named: bool = True) -> Setup:
        """Load the models that are named, and return what learners are given.

        Args:
            with_named: Load those too that recipes name, for their roles and voters; the traces keep them.

        Raises:
            UserError: An unknown model, or one that lacks what a recipe needs.
        """
        settings = self.settings
        model, asked = (
            load_model(given, **settings.placing(given)) if isinstance(given, str | Path) else given
            for given in (settings.model, settings.selector_model)
        )
        assert model is not None
        is_paid = any(m.is_remote for m in (model, asked) if m) or any(r.asks_service for r in self.recipes)
        is_paid |= any(is_api(name) for recipe in self.recipes for name in recipe.other_models)
        if parse_budget(settings.budget).money < inf and not is_paid:
            raise UserError(
                f"--budget must be a time or tokens where no model is behind an API: '{model.name}' costs no money; "
                f"got '{settings.budget}'. Give one such as 10m."
            )
        aligned = None
        if self.source:
            aligned = Source(TaskModel.for_task(self.source, model, settings.layout), self.source.train)
        own = TaskModel.for_task(self.task, model, settings.layout)
        own = replace(own, traces=Traces(placing={**settings.placing(""), "api": settings.api}))
        selecting = TaskModel.for_task(self.task, asked) if asked else None
        setup = Setup(self.task, own, settings.seed, selector_model=selecting, source=aligned)
        check_models(setup, self.stream, self.recipes, is_named="all" not in settings.recipe_names)
        if with_named:
            load_named(setup, self.recipes)
        return setup


def prepare(settings: RunSettings) -> Prepared:
    """Read the data of a run and its recipes, before a model is loaded.

    Raises:
        UserError: Whatever is wrong with settings or data.
    """
    skip = settings.skip_bad_rows
    task = given_task(
        settings.task,
        test=settings.test,
        columns=parse_columns(settings.columns),
        kind=settings.kind,
        skip_bad_rows=skip,
        inputs=settings.inputs,
    )
    source = None if settings.source is None else given_task(settings.source, skip_bad_rows=skip)
    stream = make_stream(task, limit=settings.limit, seed=settings.seed)
    _check_asks(stream, task)
    n_pool, names = len(stream.examples), settings.recipe_names
    shots = min(DEFAULT_SHOTS, n_pool) if settings.shots is None else settings.shots
    if not 1 <= shots <= n_pool:
        raise UserError(f"--shots must be in 1..{n_pool}, the number of different training examples; got {shots}.")
    recipes = parse_recipes(names, shots=shots)
    settings.check_placing([name for recipe in recipes for name in recipe.other_models if is_placed(name)])
    if source:
        recipes = tuple(recipe.aligned() for recipe in recipes)
    check_source(recipes, with_source=source is not None)
    check_combinations(recipes, task, is_named="all" not in names)
    if not any(recipe.suits(task) for recipe in recipes):
        raise UserError(f"--recipes must name one for tasks of kind {task.kind}; got '{names}'. Try 'all'.")
    obstacles = {recipe.name: recipe.obstacle(task) for recipe in recipes if recipe.suits(task)}
    if all(obstacles.values()):
        name, obstacle = next(iter(obstacles.items()))
        raise UserError(
            f"--recipes must name one that can use the examples of '{task.name}'; of {name}, {obstacle}. Change the "
            "examples, or try 'all'."
        )
    for recipe in recipes:
        if recipe.k > n_pool:
            raise UserError(f"{recipe.name}: k must be in 1..{n_pool}, the size of the pool; got {recipe.k}.")
        if recipe.name in split_list(names):
            check_contexts(recipe, n_pool)
        if names != "all" and recipe.missing_package:
            raise missing_extra(recipe.missing_package, "retrieval", f"The recipe '{recipe.name}'")
    if len({e.output for e in task.train}) < 2:
        raise UserError(
            f"A task must have at least two different outputs to choose between; all training examples of "
            f"'{task.name}' have '{task.train[0].output}'."
        )
    check_metrics(task)
    if settings.abstain is not None:
        check_can_abstain(task)
        check_enough(len(stream.asked), settings.abstain)
    for example in stream.asked:
        check_references(primary_metric(task), example.id, example.accepted)
    return Prepared(settings, task, source, stream, recipes)


def _check_asks(stream: Stream, task: Task) -> None:
    """Raise UserError where a generator has made all examples, so that none is predicted."""
    if not stream.asked:
        raise UserError(
            f"A run must have examples that no generator has made: all {len(stream.examples)} of '{task.name}' are "
            "(column 'made'), and what is made is not scored. Add the rows that they were made from."
        )


def check_contexts(recipe: Recipe, n_pool: int) -> None:
    """Raise UserError where a recipe is to show more contexts than differ, from a pool of so many examples."""
    for one in recipe.all_recipes:
        if one.contexts > (most := one.most_contexts(n_pool)):
            raise UserError(
                f"{one.name}: contexts must be in 1..{most}, as its selector has no more different choices among "
                f"{n_pool} examples; got {one.contexts}. Name fewer contexts."
            )


def check_combinations(recipes: Sequence[Recipe], task: Task, *, is_named: bool = True) -> None:
    """Raise UserError where a combination cannot answer a task, or one of the run has nothing to combine.

    Args:
        recipes: Of the run.
        task: What is answered.
        is_named: Whether all of them were named: of "all" those that do not suit are left out.
    """
    others = [r for r in recipes if not (r.combines or r.combines_run) and r.suits(task)]
    for recipe in recipes:
        if recipe.combines_run and is_named and len(others) < 2:
            raise UserError(
                f"'{recipe.name}' combines the recipes of the run that combine nothing themselves, and must have two "
                f"or more for tasks of kind {task.kind}; it has {len(others)}. Name more --recipes, or recipes of its "
                f"own: {recipe.name.partition('(')[0].partition(':')[0]}(bm25, zero-shot)."
            )
        if odd := next((member for member in recipe.members if not member.suits(task)), None):
            raise UserError(
                f"'{recipe.name}' must combine recipes for tasks of kind {task.kind}; '{odd.name}' is for others. "
                "Leave it out."
            )
        if recipe.members and not recipe.suits(task):
            raise UserError(
                f"'{recipe.name}' must be for tasks of kind {task.kind}, and its way to combine is for others. Take "
                "average or mix."
            )


def check_source(recipes: Sequence[Recipe], *, with_source: bool) -> None:
    """Raise UserError unless a source task is given where one is needed, and used where one is given."""
    users = [v.name for r in recipes for v in r.variants if v.aligns]
    if users and not with_source:
        raise UserError(f"'{users[0]}' aligns with another task; name it with --source, or leave align out.")
    if with_source and not users:
        raise UserError("--source is for recipes that train weights; name one, as --recipes icl+ft.")


def check_models(setup: Setup, stream: Stream, recipes: Sequence[Recipe], *, is_named: bool = True) -> None:
    """Raise UserError where a model lacks what a recipe needs, if it was named, or an example is too long for it."""
    assert setup.model is not None
    for recipe in recipes:
        can_use = not recipe.combines_run and not recipe.obstacle(setup.task)
        if can_use and (is_named or not lacking(recipe, setup)):
            make_learner(recipe, setup).check(stream.examples[:2])
    if any(r.asks_model for r in recipes):
        _check_asked(setup.model, stream)
        asked = {e.id for e in stream.asked}
        for example in (e for e in stream.examples if e.id not in asked):  # only shown; left out where they do not fit
            setup.model.compose((example,), example)
    other = setup.selector_model
    if other and any(one.is_taught_by_another for r in recipes for one in r.all_recipes):
        try:
            _check_asked(other, stream)
        except TooLongError as error:
            raise UserError(
                f"Each example must fit the context of the model that teaches, {error.most} tokens of "
                f"'{other.model.name}'; example '{error.asked}' needs {error.n} with the instruction. Shorten it, "
                "remove it, or use another --selector-model."
            ) from error


def load_named(setup: Setup, recipes: Sequence[Recipe]) -> None:
    """Load the models that loops and generators name, into the traces of the model that answers.

    Raises:
        UserError: There is no such model; it names the setting.
    """
    assert setup.model is not None
    for recipe in (r for r in recipes if r.suits(setup.task) and not r.obstacle(setup.task)):
        for part in recipe.all_parts:
            for setting, names in part.named_models.items():
                for name in names:
                    another(name, setup.model, f"{part.record()['name']}:{setting}")


def _check_asked(model: TaskModel, stream: Stream) -> None:
    """Raise UserError where an example that is predicted is too long for a model, or two answers are the same to it."""
    checked = set[tuple[str, ...]]()
    for example in stream.asked:
        prompt, _ = model.prompt((example,), example)
        answers = model.answers(example)
        if len(answers) > 1 and answers not in checked:
            model.forward_tokens([prompt], [answers])
            checked.add(answers)
