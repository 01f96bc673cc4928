"""Choose demonstrations: for a prompt of one's own, or for another model's API."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.core.api_settings import is_api
from kshot.core.errors import UserError
from kshot.core.gradient_settings import GradientStore
from kshot.core.models import Capability, LanguageModel
from kshot.core.progress import Progress, Silence
from kshot.core.types import Example, Rows, Task
from kshot.engine.load_model import load_model
from kshot.learners.demonstrations import selected
from kshot.methods.orders import PER_QUERY
from kshot.models.absent import NoModel
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import given_task
from kshot.tasks.containers import check_question


def select(
    task: Task | str | Rows,
    selector: str,
    k: int,
    *,
    model: LanguageModel | str | Path | None = None,
    selector_model: LanguageModel | str | Path | None = None,
    layout: str = "auto",
    query: Example | str | None = None,
    seed: int = 0,
    gradient_store: GradientStore | None = None,
    progress: Progress | None = None,
    notes: Callable[[Mapping[str, Any]], None] | None = None,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    api: str | None = None,
) -> list[Example]:
    """Choose demonstrations from the training examples.

    Args:
        task: Where the examples come from, or where to load it from, or rows; repeated ones are left out.
        selector: A selector's name with settings, such as "random:balanced=true".
        k: How many, at most as many as there are.
        model: The language model, or its name, that will be shown them.
        selector_model: The one that the selector asks, if it asks one; by default `model`.
        layout: How `model` is prompted, as for `adapt`, where the selector asks it.
        query: The input to choose for, where the selector chooses for each query.
        seed: As for `adapt`: the same seed gives the demonstrations of the adapted model.
        gradient_store: Where gradients are kept, for selectors that take them.
        progress: Told of the work that the selector asks for.
        notes: Called with what the selector says of its choice.
        device: Where a model that is named runs, as for `load_model`.
        dtype: Its precision, as for `load_model`.
        revision: Its commit, branch or tag on the hub.
        trust_remote_code: Whether Python that comes with its files may be run, as for `load_model`.
        api: How it is asked, if it is behind an API, as for `load_model`.

    Returns:
        The demonstrations in the order of the prompt; the last one stands next to the query.

    Raises:
        UserError: An unknown selector, `k` out of range, a per-query selector without a query, or one that is no text;
            a query or a folder of gradients that the selector does not use.
    """
    task = given_task(task)
    if query is not None:
        query = query if isinstance(query, Example) else Example(query, "", "query")
        check_question(query.input, "--query")
    placing: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision}
    placing["trust_remote_code"] = trust_remote_code
    kinds = {is_api(name) for name in (model, selector_model) if isinstance(name, str | Path)}
    if selector_model is not None:
        model, layout = selector_model, "auto"
    if isinstance(model, str | Path):
        how: dict[str, Any] = {**placing, "api": api}  # what is for no model that is named is refused
        if len(kinds) == 2:
            how = {"api": api} if is_api(model) else placing
        model = load_model(model, **how)
    recipe = parse_recipe(selector, shots=k, raced=False)
    stream = make_stream(task, limit=len(task.train), seed=seed)
    pool = stream.examples
    if not 1 <= k <= len(pool):
        raise UserError(f"-k must be in 1..{len(pool)}, the size of the pool; got {k}.")
    _check(selector, recipe, task, k, query=query is not None, keeps=bool(gradient_store and gradient_store.folder))
    if model is None:  # some ask only where there is a choice
        model = NoModel(f"The selector '{selector}' asks a language model; give --model.")
    progress = progress or Silence()
    kept = replace(gradient_store or GradientStore(), say=progress.say)
    told = {"progress": progress, "gradient_store": kept, "notes": notes}
    asked = replace(TaskModel.for_task(task, model, layout), **told)
    (found,) = selected(recipe, pool, query.question if query else None, model=asked, seed=seed)
    if len(found) > k:
        raise UserError(f"-k must be heeded by the selector; '{selector}' shows {len(found)} whatever -k is.")
    return list(found)


def _check(selector: str, recipe: Recipe, task: Task, k: int, *, query: bool, keeps: bool) -> None:
    """Raise a UserError unless a recipe is a selector that suits a task, and uses what else is given."""
    if not recipe.chooses_alone:
        raise UserError(f"--selector must name a selector; '{selector}' shows no demonstrations.")
    if not recipe.suits(task):
        raise UserError(f"--selector must suit tasks of kind {task.kind}; '{selector}' does not. Take another one.")
    if recipe.k != k:
        raise UserError(f"-k says how many; leave k out of '{selector}', which says {recipe.k} and -k {k}.")
    if recipe.contexts > 1:
        raise UserError(
            f"--selector must choose for one prompt; got contexts={recipe.contexts} in '{selector}'. Leave contexts "
            "out; another --seed gives another choice."
        )
    if query and not (recipe.per_query or recipe.order in PER_QUERY):
        raise UserError(f"--query must come with a selector that chooses by it; '{selector}' does not. Leave it out.")
    if keeps and Capability.GRADIENTS not in recipe.selector_needs:
        raise UserError(f"--gradients must come with a selector that takes some; '{selector}' does not. Leave it out.")
