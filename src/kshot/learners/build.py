"""From a recipe to the learner that puts it to work: the only place that asks which slots are filled."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kshot.core.errors import UserError
from kshot.core.models import Capability
from kshot.learners.classifier import ClassifierLearner
from kshot.learners.combined import CombinedLearner
from kshot.learners.learner import Learner, Setup
from kshot.learners.passed_on import PassedOn
from kshot.learners.prompted import PromptLearner
from kshot.learners.settings_race import SettingsRace
from kshot.learners.steered import SteeredLearner
from kshot.learners.trained import TrainedLearner
from kshot.recipes.recipe import Recipe


def lacking(recipe: Recipe, setup: Setup) -> frozenset[Capability]:
    """Return what a recipe needs on its task and the model, or the one that its selector asks, cannot do."""
    if not recipe.asks_model:
        return frozenset()
    if recipe.alternatives:
        return frozenset().union(*(lacking(one, setup) for one in recipe.alternatives))
    if recipe.is_taught_by_another:
        (one,), teaching = recipe.members, _setup_of_teacher(recipe, setup)
        return lacking(replace(recipe, members=()), setup) | lacking(one, teaching)
    model, asked = setup.model, setup.selector_model or setup.model
    can = model.model.capabilities if model else frozenset()
    needs = recipe.needs
    if setup.task.is_open:
        needs |= {Capability.GENERATE}
    elif Capability.GENERATE not in can:  # what is written is an answer too (`TaskModel.score`)
        needs |= {Capability.SCORE}
    return (needs - can) | (recipe.selector_needs - (asked.model.capabilities if asked else frozenset()))


def check_suits(recipe: Recipe, setup: Setup) -> None:
    """Raise a UserError unless a recipe can be used on tasks of this kind with this model."""
    if not recipe.suits(setup.task) or lacking(recipe, setup):
        model = f" and the model '{setup.model.model.name}'" if setup.model else " without a language model"
        raise UserError(
            f"'{recipe.name}' must suit tasks of kind {setup.task.kind}{model}; it does not. Give another recipe or "
            "model."
        )


def what_it_takes(needs: Iterable[Capability]) -> str:
    """Return what a model must be able to do, such as "be trained"."""
    words = {Capability.GRADIENTS: "be trained", Capability.ACTIVATIONS: "be steered"}
    return ", ".join(words.get(need, need.value) for need in sorted(needs))


def make_learner(recipe: Recipe, setup: Setup) -> Learner:
    """Return the learner that puts a recipe to work.

    Raises:
        UserError: The recipe needs a capability that the model lacks.
    """
    for one in recipe.variants:
        _check_teaching(replace(one, name=recipe.name), setup)
    missing = lacking(recipe, setup)
    if missing:
        can, for_selector = what_it_takes(missing), " or --selector-model" if missing & recipe.selector_needs else ""
        raise UserError(f"The recipe '{recipe.name}' needs a model that can {can}; give another --model{for_selector}.")
    if recipe.combines_run:
        raise UserError(
            f"'{recipe.name}' combines the recipes of a run, and there is no run here; give it recipes of its own: "
            f"{recipe.name}(bm25, zero-shot)."
        )
    if recipe.alternatives or "tuner" in recipe.parts:  # one setting races too: how it stands is told in the same way
        heard: dict[Any, PassedOn] = {}  # a recipe that all settings are taught by is asked once
        return SettingsRace(recipe, setup, [_of_one_setting(one, setup, heard) for one in recipe.variants])
    return _of_one_setting(recipe, setup, {})


def _of_one_setting(recipe: Recipe, setup: Setup, heard: dict[Any, PassedOn]) -> Learner:
    if recipe.combines:
        return CombinedLearner(recipe, setup, [make_learner(member, setup) for member in recipe.members])
    if "tuner" in recipe.parts:
        return TrainedLearner(recipe, setup, _passed_on(recipe, setup, heard))
    for slot, made in (("classifier", ClassifierLearner), ("steerer", SteeredLearner)):
        if slot in recipe.parts:
            return made(recipe, setup)
    return PromptLearner(recipe, setup)


def _passed_on(recipe: Recipe, setup: Setup, heard: dict[Any, PassedOn]) -> PassedOn | None:
    """Return the recipe that a teacher passes on; None where no teacher does."""
    if not recipe.members:
        return None
    (one,), teacher, student = recipe.members, recipe.part("teacher"), setup.model
    assert student is not None
    key = one.fingerprint, teacher.most, teacher.hears_selecting
    if key not in heard:
        teaching = _setup_of_teacher(recipe, setup)
        heard[key] = PassedOn(one, teaching, lambda own: make_learner(one, own), teacher.most, student)
    return heard[key]


def _setup_of_teacher(recipe: Recipe, setup: Setup) -> Setup:
    """Return what the recipe is given that a teacher passes on: another model is asked for all of it."""
    if not recipe.is_taught_by_another:
        return setup
    return replace(setup, model=setup.selector_model, selector_model=None, source=None)


def _check_teaching(recipe: Recipe, setup: Setup) -> None:
    """Raise a UserError unless there is another model where one is to teach, and it can be asked."""
    if not recipe.is_taught_by_another:
        return
    own, other = setup.model, setup.selector_model
    if other is None or (own and own.model.fingerprint == other.model.fingerprint):
        raise UserError(
            f"{recipe.name}: by=selector-model lets another model teach the one that is trained, that of "
            "--selector-model; there is none. Name one, or leave `by` out."
        )
    (one,) = recipe.members
    if missing := lacking(one, _setup_of_teacher(recipe, setup)):
        raise UserError(
            f"{recipe.name}: the model that teaches must {what_it_takes(missing)} for '{one.name}' on this task; "
            f"'{other.model.name}' cannot. Name another --selector-model."
        )
