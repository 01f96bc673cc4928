"""The run folder: who it belongs to."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.store.files import write_json

MANIFEST, RESULTS, UNFINISHED = "manifest.json", "results.json", "unfinished.json"


FORMAT = 2
READABLE = (1, FORMAT)  # by reports; a run of an older format is not gone on with


def open_run(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make a run folder, or check that the one that is there belongs to the same run.

    Args:
        folder: Where the run is or will be.
        manifest: What identifies the run: flat, JSON values; kept in `manifest.json`.

    Raises:
        UserError: The folder is no run, a run of something else, of another version, or cannot be written.
    """
    expected = {"format": FORMAT, **manifest}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = [e.name for e in folder.iterdir() if not e.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"--out must be a folder that can be written; {folder}: {error.strerror}. Give another --out."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out must be a folder that can be written; {folder} is read-only. Give another --out.")
    if not entries:
        write_json(folder / MANIFEST, expected)
        return
    if (found := _manifest(folder)) is None:
        raise UserError(
            f"{folder} must be an empty folder or a run of kshot; it has no readable {MANIFEST}. Give another --out."
        )
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(
                f"{folder} holds a run with another {key.replace('_', ' ')} ({_short(found.get(key))}, now "
                f"{_short(value)}); give another --out, or repeat the settings it was started with."
            )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run folder, of this process and of others; a killed process keeps nobody out.

    The folder itself is locked, so nothing is left in it. Where there are no such locks (Windows, some network drives)
    nobody is kept out.

    Raises:
        UserError: Another run is at work in it.
    """
    if find_spec("fcntl") is None:
        yield
        return
    fcntl, opened = import_module("fcntl"), os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise UserError(
            f"{folder} must be used by one run at a time; another run is at work in it. Wait until it has ended, or "
            "give another --out."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(opened)
            raise
    try:
        yield
    finally:
        os.close(opened)


def read_manifest(folder: Path, *, verb: str = "adapt") -> dict[str, Any]:
    """Read what identifies the run in `folder`.

    Args:
        folder: Of a run, which may be unfinished.
        verb: What makes such runs.

    Raises:
        UserError: The folder is not a run.
    """
    if (found := _manifest(folder)) is None:
        raise UserError(f"there is no run in {folder}; give a folder that `kshot {verb}` wrote.")
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = from_json((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 40 else text[:37] + "…"
