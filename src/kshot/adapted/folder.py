"""The folder of an adapted model, written and read side by side.

It holds `kshot.json` (task, recipe, language model, prompt, choice), `demonstrations.jsonl` (what it may show),
`learnt.txt` (fingerprints of the questions that it has learnt from, a line each), and what was learnt: `adapter/`
(peft's own format), `steering.safetensors` with `steering.json`, `retriever/`, and `members/` for the recipes of a
combination. Users' own methods stand in `own/` by the sha256 of their files. `checksums.json` tells what all of these
files are: it is written last, and read first.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path, PurePosixPath
from shutil import copyfile
from typing import Any, TypeVar

from kshot.adapted.model import AdaptedModel
from kshot.adapted.noted import Noted
from kshot.adapted.old_formats import SEALED_FORMATS, UNSEALED_FORMATS, upgraded
from kshot.adapted.same_model import at_home_in, check_same, model_record
from kshot.adapted.seal import SEAL, check_seal, files_of, how_again, is_sealed, state_of, write_seal
from kshot.adapted.shapes import (
    About,
    MemberAbout,
    ModelAbout,
    calibration_of,
    check_capabilities,
    check_fitted,
    check_learnt,
    check_saved_task,
    check_steering,
    contexts_of,
    fields_of,
    lines_of,
    marks_of,
    naming,
    pool_of,
)
from kshot.core.api_settings import is_api, parse_address
from kshot.core.errors import KshotError, UserError, in_short
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json, to_json
from kshot.core.models import LanguageModel
from kshot.core.paths import path_of
from kshot.core.plugins import OwnFiles, own_sources
from kshot.core.schema import shaped
from kshot.core.steering import Steering
from kshot.core.types import Task
from kshot.core.version import __version__
from kshot.engine.load_model import is_moved, load_model
from kshot.learners.fitted import Fitted, fingerprints
from kshot.measures.abstention import Abstention, PastAnswers
from kshot.methods.contracts import COMPOSER
from kshot.models.remote.named_servers import check_named
from kshot.recipes.recipe import Recipe
from kshot.store.commit import FINISHED, settle, settled
from kshot.store.files import collect, write_folder
from kshot.store.held import let_go, try_to_hold
from kshot.store.run_folder import BEST, MANIFEST
from kshot.taskmodel.taskmodel import TaskModel

FORMAT = 5
ABOUT, POOL, LEARNT = "kshot.json", "demonstrations.jsonl", "learnt.txt"
ADAPTER, OWN, MEMBERS = "adapter", "own", "members"
_REMEDY = "Copy the whole folder, or adapt again."
_Read = TypeVar("_Read")
_TRIES = 5  # to read a folder that others put in its place


def save(adapted: AdaptedModel, folder: Path) -> None:
    """Write an adapted model so that it appears whole; one that is there is replaced.

    Raises:
        UserError: The folder holds something else, which would be lost, or is inside an adapted model.
    """
    check_replaceable(folder)
    check_outside(folder)
    fitted, record = adapted.fitted, adapted.recipe.record()
    about = {
        "format": FORMAT,
        "kshot": __version__,
        "model": _model_record(fitted),
        "prompt": _prompt_record(fitted),
        "calibration": fitted.calibration.record(),
        "past": adapted.past and asdict(adapted.past),
        "abstention": adapted.abstention and asdict(adapted.abstention),
        "task": {name: getattr(fitted.task, name) for name in fields_of(fitted.task)},
        "recipe": record,
        **_learnt_record(fitted),
        "seed": fitted.seed,
        "choice": adapted.choice,
    }
    own = {f"{sha256}.py": text for sha256, text in own_sources(record).items()}

    def more(partial_folder: Path) -> None:
        _write_learnt(fitted, own, partial_folder)
        write_seal(partial_folder)

    write_folder(folder, _texts(about, fitted), more=more)


def check_replaceable(folder: Path) -> None:
    """Raise a UserError if a folder holds something else than an adapted model, which would be lost."""
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty and not _is_model(folder):
        raise UserError(f"{folder} must be new, empty or an adapted model: it is replaced; it holds something else.")


def _is_model(folder: Path) -> bool:
    """Return whether a folder is an adapted model, whole or not."""
    n_others = sum((folder / name).exists() for name in (SEAL, POOL))
    return (folder / ABOUT).exists() or n_others == 2 or (n_others == 1 and how_again(folder) != "")


def check_outside(folder: Path) -> None:
    """Raise a UserError if a folder is inside an adapted model, or where a run keeps its results meanwhile."""
    folder = Path(os.path.realpath(folder))
    if inside := next((place for place in folder.parents if _is_model(place)), None):
        raise UserError(
            f"{folder} must be outside of the adapted model {inside}, which holds its own files and no other. Name "
            "another folder."
        )
    if any(place.name == FINISHED and (place.parent / MANIFEST).exists() for place in (folder, *folder.parents)):
        raise UserError(f"{folder} must not be in {FINISHED}, where a run keeps its results. Name another folder.")


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
    """Return what tells whether the files beside it belong to it, what loops have written, and what is shown."""
    return {
        "adapter": {"fingerprint": fitted.trained.fingerprint} if fitted.trained else None,
        "steering": fitted.steering and fitted.steering.fingerprint,
        "notes": list(fitted.notes),
        "contexts": [list(ids) for ids in fitted.contexts],
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
    for place in (folder, folder.parent):
        settle(place)
    collect(folder.parent, folder.name)  # where systems cannot exchange folders it may have been put aside
    return folder / BEST if not _is_model(folder) and (folder / BEST).is_dir() else folder


def _read(folder: Path) -> tuple[Any, list[Any]]:
    """Return what a model's folder, or that of a recipe inside it, says of it, and the rows that it may show."""
    file = folder / ABOUT
    try:
        about = from_json(text_of(file))
        if not isinstance(about, dict):
            raise ValueError("it is no object")
        file = folder / POOL
        return about, [from_json(line) for line in lines_of(file)]
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {in_short(error)}"
    if os.path.lexists(file) or _is_model(folder) or folder.parent.name == MEMBERS:
        raise UserError(
            f"{folder} must be an adapted model with all of its files; {file.name} {reason}. Copy the whole folder; in "
            "a run, the same `kshot adapt` command writes it again."
        )
    if not folder.exists():
        raise UserError(f"There is no folder {folder}. Give that of a finished run or of an adapted model.")
    if (folder / MANIFEST).is_file():
        raise UserError(f"{folder} is a run that is not finished; finish it with the same `kshot adapt` command.")
    raise UserError(
        f"{folder} must be an adapted model or a finished run: it has no readable {ABOUT} and {POOL} "
        "(a run that was interrupted is finished by the same `kshot adapt` command)."
    )


def _read_saved(folder: Path, *only: str) -> tuple[About, list[Any]]:
    """Read a folder whose files are as its seal says, or one of an older format, which has none.

    Args:
        folder: The folder.
        only: The files to check against the seal; by default all.
    """
    if is_sealed(folder):
        check_seal(folder, only)
    elif _is_model(folder):
        files_of(folder)
    about, pool = _read(folder)
    sealed = (*SEALED_FORMATS, FORMAT)
    found, readable = about.get("format"), sealed if is_sealed(folder) else UNSEALED_FORMATS
    if found not in (*sealed, *UNSEALED_FORMATS):
        older = " or ".join(map(str, sorted((*SEALED_FORMATS, *UNSEALED_FORMATS), reverse=True)))
        raise UserError(
            f"{folder} must have format {FORMAT}, which this kshot {__version__} reads (or {older}); got "
            f"{found}, written by kshot {about.get('kshot')}."
        )
    if found not in readable and found in sealed:
        raise UserError(
            f"{folder} must be an adapted model with all of its files; {SEAL} is missing. "
            f"Copy the whole folder, or adapt again{how_again(folder)}."
        )
    if found not in readable:
        raise UserError(
            f"{folder} must have no {SEAL}, as it says that it is of format {found}; models have it from format "
            f"{sealed[0]} on. Copy the whole folder, or adapt again{how_again(folder)}."
        )
    if found != FORMAT:
        about = upgraded(about, folder / ABOUT)
    return shaped(About, about, folder / ABOUT, _REMEDY), pool


def _task(about: About, file: Path) -> Task:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["task"].items()}
    task = Task(train=(), **fields)
    with naming(file):
        check_saved_task(task)
    return task


def saved_task(folder: str | Path) -> Task:
    """Return the task that an adapted model answers, without examples; no language model is loaded.

    Raises:
        UserError: No adapted model there, or one of another version.
    """
    return _unchanged(folder, lambda place: _task(_read_saved(place, ABOUT, POOL)[0], place / ABOUT))


def is_loaded_here(folder: str | Path) -> bool:
    """Return whether an adapted model's language model is one of weights, held by a device; errors as `saved_task`."""
    model = _unchanged(folder, lambda place: _read_saved(place, ABOUT, POOL)[0]["model"])
    return model is not None and "dtype" in model["origin"]


def saved_recipe(folder: str | Path, *, allow_code: bool = False) -> Recipe:
    """Return the recipe of an adapted model with what its methods remember; no language model is loaded.

    Raises:
        UserError: As `load`.
    """
    return _unchanged(folder, lambda place: _recipe(place, _read_saved(place)[0], allow_code=allow_code))


def _recipe(place: Path, about: About, *, allow_code: bool) -> Recipe:
    with naming(place / ABOUT):
        return Recipe.rebuilt(about["recipe"], place, OwnFiles(place / OWN, allow_code))


def rewrite(folder: str | Path, change: Callable[[Recipe, Task], Noted], *, allow_code: bool = False) -> Noted:
    """Give an adapted model another composer; all else that it has learnt stays, and no language model is loaded.

    Args:
        folder: What `AdaptedModel.save` wrote, or a run folder (its chosen model). One who reads it meanwhile sees the
            old model or the new one; two who write do so one after the other.
        change: Returns the recipe with another composer; it is written as long as that says something else.
        allow_code: As for `load`.

    Raises:
        UserError: As `load`, or the folder is of an older format; or what `change` raises.
        StorageError: The folder cannot be written: it is as it was.
    """
    place = _place(folder)
    with settled(place.parent):  # of a run that ends meanwhile nothing is overwritten
        while (holding := try_to_hold(place, wait=True)) is None and place.exists():
            pass  # it was replaced while we waited
        try:
            return _rewritten(place, change, allow_code)
        finally:
            let_go(holding)


def _rewritten(place: Path, change: Callable[[Recipe, Task], Noted], allow_code: bool) -> Noted:
    about, _ = _read_saved(place)
    if about["format"] != FORMAT:
        raise UserError(
            f"{place} must have format {FORMAT} to be changed; it has {about['format']}, of an older kshot. Adapt "
            "again."
        )
    changed = change(_recipe(place, about, allow_code=allow_code), _task(about, place / ABOUT))
    record = changed.recipe.record()
    if record == about["recipe"]:
        return changed
    kept = {name: file for name, file in files_of(place).items() if name != ABOUT and not _is_of_composer(name)}

    def more(partial_folder: Path) -> None:
        for name, file in kept.items():
            (partial_folder / name).parent.mkdir(parents=True, exist_ok=True)
            copyfile(file, partial_folder / name)
        changed.recipe.part("composer").save(partial_folder)
        write_seal(partial_folder)

    write_folder(place, {ABOUT: to_json({**about, "recipe": record}, indent=1) + "\n"}, more=more)
    return changed


def _is_of_composer(name: str) -> bool:
    """Return whether a file holds what the recipe's composer remembers, and none of a member."""
    return PurePosixPath(name).name == COMPOSER and not name.startswith(f"{MEMBERS}/")


def _unchanged(folder: str | Path, read: Callable[[Path], _Read]) -> _Read:
    """Return what is read from a model's folder, all of it from one that was there; others may replace it meanwhile."""
    for _ in range(_TRIES):
        place = _place(folder)
        before = state_of(place)
        try:
            found = read(place)
        except KshotError:
            if state_of(place) == before:
                raise
        else:
            if state_of(place) == before:
                return found
    raise UserError(
        f"{folder} must stay as it is while it is read; it is being written. Try again when that has ended."
    )


def load(
    folder: str | Path,
    *,
    model: LanguageModel | str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    api: str | None = None,
    allow_code: bool = False,
    allow_other_dtype: bool = False,
) -> AdaptedModel:
    """Load an adapted model, and the language model it needs.

    Whatever the folder holds, no code of it is run unless it is allowed, and files that are not as kshot wrote them are
    refused. Models of formats 2 and 3, which have no list of their files, are read as they are.

    Args:
        folder: What `AdaptedModel.save` wrote, or a run folder (its chosen model).
        model: The language model, if it is loaded already, or where it is now, if it is not where it was.
        device: Where the language model runs: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: Its precision; by default that with which it was adapted, as another one gives other weights.
        revision: Its commit, branch or tag on the hub; by default that with which it was adapted.
        trust_remote_code: Whether Python that comes with it may be run. That it was run before does not allow it.
        api: How a model behind an API is asked, such as "concurrency=16"; by default as it was, by the same route.
        allow_code: Whether users' own methods, which come as Python with the folder, may be run. Read them first.
        allow_other_dtype: Whether the same weights may run in another precision than that with which it was adapted:
            what was measured may not hold then, which a note says.

    Raises:
        UserError: No adapted model there, one of another version, one that was changed, or a language model that is not
            the one it was adapted with.
    """
    given = {name: value for name, value in (("dtype", dtype), ("revision", revision)) if value}
    given |= {"api": api} if api else {}
    how = {**given, "device": device, "trust_remote_code": trust_remote_code}
    allowed = {"allow_code": allow_code, "allow_other_dtype": allow_other_dtype}
    return _unchanged(folder, lambda place: _loaded(place, model, how, given, **allowed))


def _loaded(
    place: Path,
    model: LanguageModel | str | Path | None,
    how: Mapping[str, Any],
    given: Mapping[str, str],
    *,
    allow_code: bool,
    allow_other_dtype: bool,
) -> AdaptedModel:
    about, pool = _read_saved(place)
    recipe = _recipe(place, about, allow_code=allow_code)
    for service in filter(is_api, _strings(about["recipe"])):
        check_named(parse_address(service), place, f"To allow it, name it: kshot.load_model('{service}').")
    task, asked = _task(about, place / ABOUT), None
    check_fitted(recipe, task, about, place / ABOUT)
    if about["model"] is not None and about["prompt"] is not None:
        if model is None or isinstance(model, str | Path):
            model = _language_model(place, about["model"], model, how)
        check_same(place, about["model"], model, given, allow_other_dtype=allow_other_dtype)
        asked = _asked(place, about, task, model)
        check_capabilities(recipe, model, place)
    before = about["model"]["fingerprint"] if about["model"] else ""
    fitted = _fitted(place, about, pool, Fitted.before_learning(recipe, task, about["seed"], asked), before)
    fitted = replace(fitted, calibration=calibration_of(about["calibration"]))
    past = PastAnswers.read(about["past"]) if about["past"] else None
    abstention = Abstention(**about["abstention"]) if about["abstention"] else None
    return AdaptedModel(fitted, choice=about["choice"], past=past, abstention=abstention)


def _language_model(folder: Path, saved: ModelAbout, name: str | Path | None, how: Mapping[str, Any]) -> LanguageModel:
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
    if name is None and is_api(saved["name"]):
        address = parse_address(saved["name"])
        check_named(address, folder, f"To allow it, name it with --model {address.name} (in Python model=).")
    placing = {key: saved["origin"][key] for key in ("dtype", "revision", "api") if key in saved["origin"]}
    as_before: Any = shaped(dict[str, str], placing, folder / ABOUT, _REMEDY)
    if "api" in as_before and "api" in how:  # what is said now counts, and the route stays where nothing is said of it
        how = {**how, "api": f"{as_before['api']},{how['api']}"}
    return load_model(name or saved["name"], **as_before | dict(how))


def _strings(record: Any) -> list[str]:
    """Return all texts in a record."""
    if isinstance(record, dict | list):
        return [text for inner in (record.values() if isinstance(record, dict) else record) for text in _strings(inner)]
    return [record] if isinstance(record, str) else []


def _asked(folder: Path, about: About, task: Task, model: LanguageModel) -> TaskModel:
    """Return the language model on the task, as it was asked when it was adapted."""
    prompt = about["prompt"]
    assert prompt is not None
    asked = replace(TaskModel.for_task(task, model, prompt["layout"]), answer_tokens=prompt["answer_tokens"])
    if {**asked.layout.record, "answer_tokens": prompt["answer_tokens"]} != prompt:
        raise UserError(f"{folder} was adapted with another chat template than '{model.name}' has now; adapt again.")
    return asked


def _fitted(folder: Path, about: MemberAbout, pool: list[Any], bare: Fitted, before: str) -> Fitted:
    """Return what was fitted, from what stands in its folder.

    Args:
        folder: Its own.
        about: What tells of the files beside it.
        pool: The rows of what it may show.
        bare: With the rebuilt recipe, and the language model as it was before training.
        before: The fingerprint of that language model when it was saved.
    """
    check_learnt(bare.recipe, bare.task, about, pool, folder)
    found = bare.with_weights(folder / ADAPTER, about["adapter"]["fingerprint"]) if about["adapter"] else bare
    steering = None
    if about["steering"]:
        steering = Steering.load(folder)
        if steering.fingerprint != about["steering"]:
            raise UserError(f"{folder} must hold the steering that {ABOUT} tells of; it holds another. Adapt again.")
        assert bare.language_model is not None
        steering = at_home_in(steering, before, bare.language_model)
        check_steering(steering, found)
    members = []
    for i, member in enumerate(bare.recipe.members):
        own = folder / MEMBERS / str(i)
        said, rows = _read(own)
        said = shaped(MemberAbout, said, own / ABOUT, _REMEDY)
        members.append(
            _fitted(own, said, rows, Fitted.before_learning(member, bare.task, said["seed"], bare.model), before)
        )
    bits, shows = pool_of(pool, bare.task, folder / POOL)
    contexts = contexts_of(bare.recipe, about, shows, folder / ABOUT)
    learnt: dict[str, Any] = {"steering": steering, "notes": tuple(about["notes"]), "bits": bits}
    marks = marks_of(folder / LEARNT) if (folder / LEARNT).exists() else fingerprints(shows)
    known = {"pool": shows, "contexts": contexts, "members": tuple(members), "learnt": frozenset(marks)}
    return replace(found, **known, **learnt)
