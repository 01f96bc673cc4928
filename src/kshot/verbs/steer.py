"""Find the steering of a task on its own: to look at it, to do arithmetic with it, to use it elsewhere."""

from dataclasses import replace
from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.progress import Progress, Silence
from kshot.core.steering import Steering
from kshot.core.types import Rows, Task
from kshot.engine.load_model import load_model
from kshot.learners.steered import fitted_steering
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.tasks.built import given_task


def steer(
    task: Task | str | Rows,
    steerer: str,
    *,
    model: LanguageModel | str | Path,
    layout: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Steering:
    """Find what to change in a model's activations, from all training examples of a task.

    Args:
        task: Where the examples come from, or where to load it from, or rows; repeated ones are left out.
        steerer: A steerer's name with settings, such as "icv:strength=0.1".
        model: The language model, or its name.
        layout: How it is prompted, as for `adapt`.
        seed: As for `adapt`: the same seed gives the steering of the adapted model.
        progress: Told of the work.
        device: Where a model that is named runs, as for `load_model`.
        dtype: Its precision, as for `load_model`.
        revision: Its commit, branch or tag on the hub.
        trust_remote_code: Whether Python that comes with its files may be run, as for `load_model`.

    Returns:
        The steering: `model.steered(found)` is the model under it; `-found`, `found + other`, `found.scaled(0.5)`,
        `kshot.averaged([...])` are others; `found.save(folder)` writes it.

    Raises:
        UserError: An unknown steerer, too few examples, or a field that it needs and none of them has.
        ModelError: The model's activations cannot be changed, or its outputs are not numbers under the steering.
    """
    task = given_task(task)
    recipe = parse_recipe(steerer, shots=1, raced=False)
    if not recipe.steers_alone:
        raise UserError(f"steer needs a steerer alone, such as 'icv' or 'soft-injection'; got '{steerer}'.")
    examples = make_stream(task, limit=len(task.train), seed=seed).examples
    if len(examples) < recipe.least:
        raise UserError(f"'{steerer}' needs at least {recipe.least} different examples; got {len(examples)}.")
    if obstacle := recipe.obstacle(task):
        raise UserError(f"'{steerer}' cannot use the examples of '{task.name}': {obstacle}. Take another steerer.")
    if not recipe.suits(task):
        raise UserError(f"'{steerer}' is for tasks of other kinds; '{task.name}' is {task.kind}. Take another steerer.")
    if isinstance(model, str | Path):
        model = load_model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    asked = TaskModel.for_task(task, model, layout)
    found = fitted_steering(recipe, examples, replace(asked, progress=progress or Silence()), seed=seed)
    assert found is not None
    return found
