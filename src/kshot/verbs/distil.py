"""Put an adapted model that is prompted into the weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.progress import Progress
from kshot.core.types import Task
from kshot.verbs.adapt import Run, adapt


def distil(
    adapted: AdaptedModel,
    task: Task | str | Path,
    *,
    settings: str = "",
    inputs: Iterable[Any] | str | Path | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Let a student learn without demonstrations what an adapted model says with them (`kshot recipes`: distil).

    It is `kshot.adapt` with the one recipe distil(…) of the adapted model's own: measured along the stream, resumed by
    the same `out`, and handed over with its weights.

    Args:
        adapted: Of a recipe that shows prompts or combines some.
        task: Its training examples teach; as for `kshot.adapt`.
        settings: Of the student, such as "lr=1e-4/3e-4,steps=3".
        inputs: More inputs whose answers are not known, as for `kshot.adapt`.
        out: The run folder of the student.
        progress: Told how far it is.

    Raises:
        UserError: As `kshot.adapt`, or the adapted model trains or asks no language model.
    """
    recipe, model = adapted.recipe, adapted.fitted.untrained
    if model is None or recipe.changes_model:
        what = "trains or steers the model" if recipe.changes_model else "asks no language model"
        raise UserError(
            f"To be put into the weights, an adapted model must show prompts or combine some; '{recipe.name}' {what}. "
            "Adapt with --recipes random:contexts=8, or distil that: kshot adapt TASK --recipes distil."
        )
    name = f"distil({recipe.name})" + (f":{settings}" if settings else "")
    shots = max((one.k for one in recipe.all_recipes), default=0) or None  # where its name does not say
    how: Any = {"shots": shots, "seed": adapted.seed, "inputs": inputs, "out": out, "progress": progress}
    return adapt(task, model, recipes=[name], **how)
