"""The folder of an adapted model, written and read side by side.

It holds `kshot.json` (task, recipe, language model, prompt, choice), `demonstrations.jsonl` (what it may show),
`learnt.txt` (fingerprints of the questions that it has learnt from, a line each), and what was learnt: `adapter/`
(peft's own format), `steering.safetensors` with `steering.json`, `retriever/`, and `members/` for the recipes of a
combination. Users' own methods stand in `own/` by the sha256 of their files.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from kshot.adapted.format_2 import upgraded
from kshot.adapted.model import AdaptedModel
from kshot.adapted.same_model import at_home_in, check_same, model_record
from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.models import LanguageModel
from kshot.core.paths import path_of
from kshot.core.plugins import own_sources
from kshot.core.steering import Steering
from kshot.core.types import Example, Task
from kshot.core.version import __version__
from kshot.engine.load_model import is_moved, load_model
from kshot.learners.fitted import Fitted, fingerprints
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_folder
from kshot.taskmodel.taskmodel import TaskModel

FORMAT = 3
ABOUT, POOL, LEARNT = "kshot.json", "demonstrations.jsonl", "learnt.txt"
ADAPTER, OWN, MEMBERS = "adapter", "own", "members"
_TASK_FIELDS = (
    "name", "kind", "labels", "metrics", "instruction", "choices_in_input", "letter_form", "positive_label", "columns",
)  # fmt: skip
_TUPLES = ("choices", "references")


def save(adapted: AdaptedModel, folder: Path) -> None:
    """Write an adapted model so that it appears whole; one that is there is replaced.

    Raises:
        UserError: The folder holds something else, which would be lost.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty and not (folder / ABOUT).exists():
        raise UserError(f"{folder} must be new, empty or an adapted model: it is replaced; it holds something else.")
    fitted, record = adapted.fitted, adapted.recipe.record()
    about = {
        "format": FORMAT,
        "kshot": __version__,
        "model": _model_record(fitted),
        "prompt": _prompt_record(fitted),
        "temperature": adapted.temperature,
        "task": {name: getattr(fitted.task, name) for name in _TASK_FIELDS},
        "recipe": record,
        **_learnt_record(fitted),
        "seed": fitted.seed,
        "choice": adapted.choice,
    }
    own = {f"{sha256}.py": text for sha256, text in own_sources(record).items()}
    write_folder(folder, _texts(about, fitted), more=partial(_write_learnt, fitted, own))


def _model_record(fitted: Fitted) -> dict[str, Any] | None:
    """Return how the language model is loaded again; None for a classifier."""
    model = next((f.language_model for f in (fitted, *fitted.members) if f.language_model), None)
    if model is None:
        return None
    before = fitted.trained.base_fingerprint if fitted.trained else model.fingerprint
    return model_record(model, before)


def _prompt_record(fitted: Fitted) -> dict[str, Any] | None:
    model = fitted.model
    return {**model.layout.record, "answer_tokens": model.answer_tokens} if model else None


def _learnt_record(fitted: Fitted) -> dict[str, Any]:
    """Return what tells whether the files beside it belong to it, and what loops have written."""
    return {
        "adapter": {"fingerprint": fitted.trained.fingerprint} if fitted.trained else None,
        "steering": fitted.steering and fitted.steering.fingerprint,
        "notes": list(fitted.notes),
    }


def _texts(about: Mapping[str, Any], fitted: Fitted) -> dict[str, str]:
    noted = {i: {"bits": bits} for i, bits in fitted.bits.items()}
    rows = [
        {k: v for k, v in asdict(e).items() if v or k in ("id", "input")} | noted.get(e.id, {}) for e in fitted.pool
    ]
    return {
        ABOUT: to_json(about, indent=1) + "\n",
        POOL: "".join(to_json(row) + "\n" for row in rows),
        **({LEARNT: "".join(f"{mark}\n" for mark in sorted(fitted.learnt))} if fitted.learnt else {}),
    }


def _write_learnt(fitted: Fitted, own: Mapping[str, str], folder: Path) -> None:
    """Write what was learnt, and users' own files, into a folder that is being made."""
    if fitted.trained:
        fitted.trained.save_weights(folder / ADAPTER)
    fitted.recipe.save(folder)
    if fitted.steering:
        fitted.steering.save(folder)
    for i, member in enumerate(fitted.members):
        about = {**_learnt_record(member), "seed": member.seed}
        write_folder(folder / MEMBERS / str(i), _texts(about, member), more=partial(_write_learnt, member, {}))
    if own:
        write_folder(folder / OWN, own)


def _place(folder: str | Path) -> Path:
    """Return the folder of an adapted model: itself, or that of a run."""
    folder = path_of(folder)
    return folder / "best" if not (folder / ABOUT).exists() and (folder / "best" / ABOUT).exists() else folder


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    reason = ""
    try:
        about = from_json((folder / ABOUT).read_text("utf-8"))
        pool = [from_json(line) for line in (folder / POOL).read_text("utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        about, pool, reason = None, [], f": {error}" if isinstance(error, ValueError) else ""
    if not isinstance(about, dict):
        raise UserError(
            f"{folder} must be an adapted model or a finished run: it has no readable {ABOUT} and {POOL}{reason} "
            "(a run that was interrupted is finished by the same `kshot adapt` command)."
        )
    return about, pool


def _read_saved(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    about, pool = _read(folder)
    if about.get("format") == 2:
        about = upgraded(about, folder)
    elif about.get("format") != FORMAT:
        raise UserError(
            f"{folder} must have format {FORMAT}, which this kshot {__version__} reads (or 2); got "
            f"{about.get('format')}, written by kshot {about.get('kshot')}."
        )
    return about, pool


def _task(about: Mapping[str, Any]) -> Task:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["task"].items()}
    return Task(train=(), **fields)


def saved_task(folder: str | Path) -> Task:
    """Return the task that an adapted model answers, without examples; no language model is loaded.

    Raises:
        UserError: No adapted model there, or one of another version.
    """
    return _task(_read_saved(_place(folder))[0])


def load(
    folder: str | Path,
    *,
    model: LanguageModel | str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_other_dtype: bool = False,
) -> AdaptedModel:
    """Load an adapted model, and the language model it needs.

    Args:
        folder: What `AdaptedModel.save` wrote, or a run folder (its chosen model).
        model: The language model, if it is loaded already, or where it is now, if it is not where it was.
        device: Where the language model runs: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: Its precision; by default that with which it was adapted, as another one gives other weights.
        revision: Its commit, branch or tag on the hub; by default that with which it was adapted.
        trust_remote_code: Whether Python that comes with it may be run. That it was run before does not allow it.
        allow_other_dtype: Whether the same weights may run in another precision than that with which it was adapted:
            what was measured may not hold then, which a note says.

    Raises:
        UserError: No adapted model there, one of another version, or a language model that is not the one it was
            adapted with.
    """
    place = _place(folder)
    about, pool = _read_saved(place)
    recipe = Recipe.rebuilt(about["recipe"], place, place / OWN)
    task, asked = _task(about), None
    if about["model"] is not None:
        given = {name: value for name, value in (("dtype", dtype), ("revision", revision)) if value}
        if model is None or isinstance(model, str | Path):
            how = {**given, "device": device, "trust_remote_code": trust_remote_code}
            model = _language_model(place, about["model"], model, how)
        check_same(place, about["model"], model, given, allow_other_dtype=allow_other_dtype)
        asked = _asked(place, about, task, model)
    temperature = about["temperature"]
    if not (isinstance(temperature, int | float) and 0 < temperature < inf):
        raise UserError(
            f"{place / ABOUT} must have a temperature above 0; got {temperature!r}. Copy the whole folder, or "
            "adapt again."
        )
    fitted = _fitted(place, about, pool, Fitted.before_learning(recipe, task, about["seed"], asked))
    return AdaptedModel(fitted, choice=about["choice"], temperature=temperature)


def _language_model(
    folder: Path, saved: Mapping[str, Any], name: str | Path | None, how: Mapping[str, Any]
) -> LanguageModel:
    """Load the language model that was saved with an adapted model, by another name if one is given."""
    if saved["origin"].get("trust_remote_code") and not how["trust_remote_code"]:
        raise UserError(
            f"{folder} was adapted with '{saved['name']}', which brings Python code of its own. Read it, and if you "
            "trust it give --trust-remote-code (in Python trust_remote_code=True)."
        )
    if name is None and is_moved(saved["name"]):
        raise UserError(
            f"{folder} was adapted with the model {saved['name']}, which is not there any more. Put it back, or say "
            "where it is with --model (in Python model=)."
        )
    as_before = {key: saved["origin"][key] for key in ("dtype", "revision") if key in saved["origin"]}
    return load_model(name or saved["name"], **as_before | dict(how))


def _asked(folder: Path, about: Mapping[str, Any], task: Task, model: LanguageModel) -> TaskModel:
    """Return the language model on the task, as it was asked when it was adapted."""
    prompt = dict(about["prompt"])
    answer_tokens = prompt.pop("answer_tokens")
    asked = replace(TaskModel.for_task(task, model, prompt["layout"]), answer_tokens=answer_tokens)
    if dict(asked.layout.record) != prompt:
        raise UserError(f"{folder} was adapted with another chat template than '{model.name}' has now; adapt again.")
    return asked


def _fitted(folder: Path, about: Mapping[str, Any], pool: list[dict[str, Any]], bare: Fitted) -> Fitted:
    """Return what was fitted, from what stands in its folder.

    Args:
        folder: Its own.
        about: What tells of the files beside it.
        pool: The rows of what it may show.
        bare: With the rebuilt recipe, and the language model as it was before training.
    """
    found = bare.with_weights(folder / ADAPTER, about["adapter"]["fingerprint"]) if about["adapter"] else bare
    steering = None
    if about["steering"]:
        steering = Steering.load(folder)
        if steering.fingerprint != about["steering"]:
            raise UserError(f"{folder} must hold the steering that {ABOUT} tells of; it holds another. Adapt again.")
        steering = at_home_in(steering, about["model"], bare.language_model) if bare.language_model else None
    members = []
    for i, member in enumerate(bare.recipe.members):
        own = folder / MEMBERS / str(i)
        said, rows = _read(own)
        said["model"] = about["model"]
        members.append(_fitted(own, said, rows, Fitted.before_learning(member, bare.task, said["seed"], bare.model)))
    bits = {row["id"]: row.pop("bits") for row in pool if "bits" in row}
    rows: list[dict[str, Any]] = [{k: tuple(v) if k in _TUPLES else v for k, v in row.items()} for row in pool]
    learnt: dict[str, Any] = {"steering": steering, "notes": tuple(about["notes"]), "bits": bits}
    shows = tuple(Example(**row) for row in rows)
    marks = (folder / LEARNT).read_text("utf-8").split() if (folder / LEARNT).exists() else fingerprints(shows)
    return replace(found, pool=shows, members=tuple(members), learnt=frozenset(marks), **learnt)
