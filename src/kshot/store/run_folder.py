"""The run folder: who it belongs to."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json, to_json
from kshot.store.files import collect, writable, write_json
from kshot.store.held import is_mine, let_go, try_to_hold

MANIFEST, RESULTS, UNFINISHED, HOLDER = "manifest.json", "results.json", "unfinished.json", ".holder.json"
BESIDE_RESULTS = SAMPLES, SECOND_LOOK, PROMPTS = "samples.jsonl", "second_look.jsonl", "prompts.json"
BEST, REPORT, SALIENCY, SUITES = "best", "report.html", "saliency.jsonl", "suites.jsonl"

FORMAT = 3
READABLE = (1, 2, FORMAT)  # by reports; a run of an older format is not gone on with


@contextmanager
def opened_run(
    folder: Path, manifest: Mapping[str, Any], first: Callable[[Path], object] | None = None
) -> Iterator[None]:
    """Make a run folder, or check that the one that is there belongs to the same run, and keep others out of it.

    Args:
        folder: Where the run is or will be.
        manifest: What identifies the run: flat, JSON values; kept in `manifest.json`.
        first: Called with the folder once others are kept out, also where its run is another one.

    Raises:
        UserError: The folder is no run, a run of something else, of another version, or cannot be written; or
            somebody else is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _found(folder)  # before anything is done in a folder that is no run
    except OSError as error:
        raise UserError(
            f"--out must be a folder that can be written; {folder}: {error.strerror}. Give another --out."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out must be a folder that can be written; {folder} is read-only. Give another --out.")
    with alone_in(folder):
        for place in filter(Path.is_dir, folder.iterdir()):
            collect(place)
        if first:
            first(folder)
        _identify(folder, {"format": FORMAT, **manifest})
        yield


def _found(folder: Path) -> dict[str, Any] | None:
    """Return what identifies the run in a folder; None where the folder is empty."""
    if all(name.startswith(".") for name in os.listdir(folder)):
        return None
    if (found := read_object(folder / MANIFEST)) is None:
        raise UserError(
            f"{folder} must be an empty folder or a run of kshot; it has no readable {MANIFEST}. Give another --out."
        )
    return found


def _identify(folder: Path, expected: Mapping[str, Any]) -> None:
    """Write down what a new run is, or check that a run is what is expected."""
    if (found := _found(folder)) is None:
        write_json(folder / MANIFEST, expected)
        return
    if found.get("format") != expected["format"]:
        raise UserError(
            f"{folder} must be a run of format {expected['format']} to go on with; another version of kshot began it, "
            f"with format {found.get('format')}. Give another --out; what it has finished can be read as before."
        )
    for key, value in expected.items():
        if found.get(key) != value:
            before, now = (_short(of.get(f"{key}_name", of.get(key))) for of in (found, expected))
            detail = f"{before}, now {now}" if before != now else f"of the same name, {now}"
            raise UserError(
                f"{folder} holds a run with another {key.replace('_', ' ')} ({detail}); give another --out, or repeat "
                "the settings it was started with."
            )


@contextmanager
def alone_in(folder: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep others out of a folder while something is at work in it; a killed process keeps nobody out.

    The folder itself is locked. Who is at work in it stands in `.holder.json`, until the end. What killed processes
    have left in it is taken away.

    Args:
        folder: Made if it is not there.
        waiting: Where somebody is at work in it, wait for its end, and say so here.

    Raises:
        UserError: Another process, or another thread of this one, is at work in it.
        StorageError: It cannot be written.
    """
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        holding = try_to_hold(folder)
        if holding is None and waiting:
            waiting(f"waiting for {_holder(folder)}, which is at work in {folder}")
            holding = try_to_hold(folder, wait=True)
    if holding is None:
        raise _in_use(folder)
    try:
        collect(folder)
        about = {"process": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        write_json(folder / HOLDER, about)
        yield
    finally:
        with suppress(OSError):  # it would hide why the work has ended; who comes next replaces it
            (folder / HOLDER).unlink(missing_ok=True)
        let_go(holding)


def check_free(folder: Path) -> None:
    """Raise UserError where somebody is at work in a folder, before what costs something; `alone_in` decides it."""
    if (folder / HOLDER).exists():
        if (holding := try_to_hold(folder)) is None:
            raise _in_use(folder)
        let_go(holding)


def _in_use(folder: Path) -> UserError:
    return UserError(
        f"{folder} must be used by one run at a time; {_holder(folder)} is at work in it. Wait until it has ended, "
        "or name another folder."
    )


def forget_killed(folder: Path) -> None:
    """Take away what says who is at work in a folder, where nobody is."""
    if not (folder / HOLDER).exists():
        return
    with suppress(OSError):  # where it cannot be changed it stays as it is
        holding = try_to_hold(folder)
        if is_mine(holding):
            (folder / HOLDER).unlink(missing_ok=True)
        let_go(holding)


def _holder(folder: Path) -> str:
    """Return who is at work in a folder, in words."""
    found = read_object(folder / HOLDER)
    if found is None:
        return "another run"
    return f"process {found.get('process')} on {found.get('host')} (since {found.get('since')})"


def read_manifest(folder: Path, *, verb: str = "adapt") -> dict[str, Any]:
    """Read what identifies the run in `folder`.

    Args:
        folder: Of a run, which may be unfinished.
        verb: What makes such runs.

    Raises:
        UserError: The folder is not a run.
    """
    if (found := read_object(folder / MANIFEST)) is None:
        if (folder / MANIFEST).exists():
            raise UserError(
                f"{folder / MANIFEST} must be the JSON that kshot wrote; it is damaged. Copy the folder again, or "
                "repeat the run with another --out."
            )
        raise UserError(f"there is no run in {folder}; give a folder that `kshot {verb}` wrote.")
    return found


def read_object(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none that can be read."""
    try:
        found = from_json(text_of(file))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 40 else text[:37] + ('…"' if text.startswith('"') else "…")
