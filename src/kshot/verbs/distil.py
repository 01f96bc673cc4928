"""Put an adapted model that is prompted into the weights, its own model's or another one's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.adapted.noted import notes_in
from kshot.core.call import parse_call
from kshot.core.errors import UserError
from kshot.core.models import Capability, LanguageModel
from kshot.core.progress import Progress
from kshot.core.settings import RunSettings
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.recipes.grammar import parse_recipe
from kshot.tasks.containers import items_of
from kshot.verbs.adapt import Run, run
from kshot.verbs.prepare import prepare


def distil(
    adapted: AdaptedModel,
    task: Task | str | Path,
    *,
    student: LanguageModel | str | Path | None = None,
    settings: str = "",
    inputs: Iterable[Any] | str | Path | None = None,
    budget: str | None = None,
    prices: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Let a student learn without demonstrations what an adapted model says with them (`kshot recipes`: distil).

    It is `kshot.adapt` with the one recipe distil(…) of the adapted model's own: measured along the stream, resumed by
    the same `out`, and handed over with its weights.

    Args:
        adapted: Of a recipe that shows prompts or combines some.
        task: Its training examples teach; as for `kshot.adapt`.
        student: The language model that learns, or its name (`load_model`), such as a small one here that is taught by
            a large one behind an API: what is passed on are answers with their probabilities, or texts. By default the
            model of `adapted`.
        settings: Of the training, such as "lr=1e-4/3e-4,steps=3".
        inputs: More inputs whose answers are not known, as for `kshot.adapt`.
        budget: What it may take, as for `kshot.adapt`.
        prices: Of a teacher behind an API, as for `kshot.adapt`.
        out: The run folder of the student.
        progress: Told how far it is.

    Raises:
        UserError: As `kshot.adapt`; the adapted model trains, asks no language model, or has notes of its own; or the
            student cannot be trained, or is the model of `adapted`.
    """
    how: dict[str, Any] = {"budget": budget, "prices": prices, "out": out}
    return run(prepare(settings_of(adapted, task, student, settings, inputs, **how)), progress=progress)


def settings_of(
    adapted: AdaptedModel,
    task: Task | str | Path,
    student: LanguageModel | str | Path | None = None,
    settings: str = "",
    inputs: Iterable[Any] | str | Path | None = None,
    **how: Any,
) -> RunSettings:
    """Return the settings of the run in which a student learns; arguments and errors as `distil`."""
    recipe, model = adapted.recipe, adapted.fitted.untrained
    if model is None or recipe.changes_model:
        what = "trains or steers the model" if recipe.changes_model else "asks no language model"
        raise UserError(
            f"To be put into the weights, an adapted model must show prompts or combine some; '{recipe.name}' {what}. "
            "Adapt with --recipes random:contexts=8, or distil that: kshot adapt TASK --recipes distil."
        )
    if student is None and not recipe.members and not recipe.parts:
        raise UserError(
            f"To be put into the weights, something must be shown; '{recipe.name}' shows nothing. Adapt with --recipes "
            "random:contexts=8, or name another model that learns from this one with --student."
        )
    if adapted.notes != notes_in(parse_recipe(recipe.name, shots=1)):
        raise UserError(
            f"To be put into the weights, a model must show what its recipe names; '{recipe.name}' has notes that were "
            "added later. Remove them (kshot notes remove), or distil the run that it was before."
        )
    taught: dict[str, Any] = {}
    if student is not None:
        student = load_model(student) if isinstance(student, str | Path) else student
        _check_student(student, model)
        settings, taught = ",".join(filter(None, (settings, "by=selector-model"))), {"selector_model": model}
    name = f"distil({recipe.name})" + (f":{settings}" if settings else "")
    unsaid = (one.k for one in recipe.all_recipes if "k" not in parse_call(one.name).settings)
    shots = max(unsaid, default=0) or None  # all names that do not say it were given the same
    if inputs is not None and not isinstance(inputs, str | Path):
        inputs = items_of(inputs, "The unlabelled inputs")
    how |= {"recipes": [name], "shots": shots, "seed": adapted.seed, "inputs": inputs}
    if not (isinstance(task, Task) or str(task).startswith("builtin:")):
        how["kind"] = adapted.task.kind  # whatever its rows look like: what is passed on are answers of this kind
    return RunSettings(task, model if student is None else student, **taught, **how)


def _check_student(student: LanguageModel, teacher: LanguageModel) -> None:
    """Raise a UserError unless a model can learn what another one says."""
    if Capability.GRADIENTS not in student.capabilities:
        raise UserError(
            f"--student must be a model with weights that can be trained here; '{student.name}' has none. Name a hub "
            "id or a folder."
        )
    if student.fingerprint == teacher.fingerprint:
        raise UserError(
            f"--student must be another model than that of the run; both are '{teacher.name}'. Leave --student out: "
            "then the model teaches itself."
        )
