"""Reading the folder of an adapted model."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.adapted.model import ABOUT, ADAPTER, FORMAT, POOL, RETRIEVER, AdaptedModel
from kshot.core.errors import UserError
from kshot.core.methods import LearningSelector
from kshot.core.models import LanguageModel
from kshot.core.steering import Steering
from kshot.core.types import Example, Task
from kshot.core.version import __version__
from kshot.engine.load_model import load_model
from kshot.prompts.layout import layout_for
from kshot.recipes.recipe import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel


def _place(folder: str | Path) -> Path:
    """Return the folder of an adapted model: itself, or that of a run."""
    folder = Path(folder)
    return folder / "best" if not (folder / ABOUT).exists() and (folder / "best" / ABOUT).exists() else folder


def _read_saved(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        pool = [json.loads(line) for line in (folder / POOL).read_text("utf-8").split("\n") if line]
    except (OSError, ValueError):
        about, pool = None, []
    if not isinstance(about, dict):
        raise UserError(
            f"{folder} must be an adapted model or a finished run: it has no readable {ABOUT} and {POOL} "
            "(a run that was interrupted is finished by the same `kshot adapt` command)."
        )
    if about.get("format") != FORMAT:
        raise UserError(
            f"{folder} must have format {FORMAT}, which this kshot {__version__} reads; got {about.get('format')}, "
            f"written by kshot {about.get('kshot')}."
        )
    return about, pool


def _saved_task(about: Mapping[str, Any]) -> Task:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["task"].items()}
    return Task(train=(), **fields)


def saved_task(folder: str | Path) -> Task:
    """Return the task that an adapted model answers, without examples; no language model is loaded.

    Raises:
        UserError: No adapted model there, or one of another version.
    """
    return _saved_task(_read_saved(_place(folder))[0])


def load(folder: str | Path, *, model: LanguageModel | None = None) -> AdaptedModel:
    """Load an adapted model, and the language model it needs.

    Args:
        folder: What `AdaptedModel.save` wrote, or a run folder (its chosen model).
        model: The language model, if it is loaded already.

    Raises:
        UserError: No adapted model there, one of another version, or a language model that is not the one it was
            adapted with.
    """
    about, pool = _read_saved(_place(folder))
    task = _saved_task(about)
    retriever = _place(folder) / RETRIEVER
    moved = {"retriever": str(retriever)}  # it was copied here
    recipe = parse_recipe(about["recipe"]["name"], shots=max(1, about["recipe"]["k"]), moved=moved)
    if isinstance(recipe.selector, LearningSelector):
        recipe = replace(recipe, selector=recipe.selector.loaded(retriever))
    asker = None
    if about["model"] is not None:
        model = model or load_model(about["model"]["name"], **about["model"]["origin"])
        if model.fingerprint != about["model"]["fingerprint"]:
            raise UserError(
                f"{folder} was adapted with other weights than those of '{model.name}' (fingerprint "
                f"{about['model']['fingerprint'][:12]}, now {model.fingerprint[:12]}); adapt again."
            )
        prompt = dict(about["prompt"])
        answer_tokens = prompt.pop("answer_tokens")
        asker = TaskModel(task, model, layout_for(model, prompt["layout"]), answer_tokens)
        if dict(asker.layout.record) != prompt:
            raise UserError(
                f"{folder} was adapted with another chat template than '{model.name}' has now; adapt again."
            )
        if recipe.training:
            trained = model.trainable(recipe.training, seed=about["seed"])
            trained.load_weights(_place(folder) / ADAPTER, about["adapter"]["fingerprint"])
            asker = replace(asker, model=trained)
    bits = {row["id"]: row.pop("bits") for row in pool if "bits" in row}
    examples = [Example(**{**row, "choices": tuple(row.get("choices", ()))}) for row in pool]
    how: Any = {"seed": about["seed"], "choice": about["choice"], "temperature": about["temperature"], "bits": bits}
    steering = None
    if about.get("steering"):
        steering = Steering.load(_place(folder))
        if steering.fingerprint != about["steering"]:
            raise UserError(f"{folder} must hold the steering that {ABOUT} tells of; it holds another. Adapt again.")
    return AdaptedModel(task, recipe, examples, asker, steering=steering, **how)
