"""From a recipe to the learner that puts it to work."""

from dataclasses import replace

from kshot.core.errors import UserError
from kshot.core.methods import Learner, LearningSelector
from kshot.core.models import Capability
from kshot.core.types import Task
from kshot.learners.classifier import BaselineLearner
from kshot.learners.kept import Keep
from kshot.learners.prompted import PromptLearner
from kshot.learners.settings_race import RacedLearner
from kshot.learners.steered import SteeredLearner
from kshot.learners.trained import Source, TunedLearner
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel


def lacking(
    recipe: Recipe, task: Task, asker: TaskModel | None, judge: TaskModel | None = None
) -> frozenset[Capability]:
    """Return what a recipe needs on this task and the model, or the one that its selector asks, cannot do."""
    needs = recipe.needs | ({Capability.GENERATE} if task.is_open and recipe.needs else set())
    asked = judge or asker
    return (needs - (asker.model.capabilities if asker else frozenset())) | (
        recipe.selector_needs - (asked.model.capabilities if asked else frozenset())
    )


def make_learner(
    recipe: Recipe,
    task: Task,
    asker: TaskModel | None,
    *,
    seed: int,
    judge: TaskModel | None = None,
    keep: Keep | None = None,
    source: Source | None = None,
) -> Learner:
    """Return the learner that puts a recipe to work.

    Args:
        recipe: The recipe.
        task: What is learnt.
        asker: The language model that answers; None will do for a baseline.
        seed: For every random choice.
        judge: The language model that selectors ask, if it is another one.
        keep: Where training survives an interruption.
        source: Another task, for tuners that align with one.

    Raises:
        UserError: The recipe needs a capability that the model lacks.
    """
    if recipe.baseline:
        return BaselineLearner(recipe.name, recipe.baseline, task, seed)
    missing = lacking(recipe, task, asker, judge)
    if asker is None or missing:
        words = {Capability.GRADIENTS: "be trained", Capability.ACTIVATIONS: "be steered"}
        can = ", ".join(words.get(m, m.value) for m in sorted(missing))
        for_selector = " or --selector-model" if missing & recipe.selector_needs else ""
        raise UserError(f"The recipe '{recipe.name}' needs a model that can {can}; give another --model{for_selector}.")
    if recipe.tuner:
        return tuned_learner(recipe, asker, seed=seed, judge=judge, keep=keep, source=source)
    made = SteeredLearner if recipe.steerer else PromptLearner
    return made(recipe, asker, judge or asker, seed)


def trains_selector(recipe: Recipe) -> bool:
    """Return whether a model of its selector is trained along the stream."""
    return any(isinstance(v.selector, LearningSelector) and not v.selector.has_learnt for v in recipe.variants)


def rehearsal(recipe: Recipe) -> Recipe:
    """Return the recipe with selectors that ask all they would ask in order to learn, but train nothing."""
    selector = recipe.selector
    if isinstance(selector, LearningSelector):
        selector = selector.rehearsing()
    return replace(recipe, selector=selector, alternatives=tuple(map(rehearsal, recipe.alternatives)))


def tuned_learner(
    recipe: Recipe,
    asker: TaskModel,
    *,
    seed: int,
    judge: TaskModel | None = None,
    keep: Keep | None = None,
    source: Source | None = None,
) -> RacedLearner:
    """Return the race of a tuned recipe's configurations; arguments as `make_learner`."""
    learners = [
        TunedLearner(variant, asker, judge or asker, seed, keep=keep, source=source) for variant in recipe.variants
    ]
    return RacedLearner(asker.task, learners)
