"""Files and folders that are written whole or not at all, and are on the disk when a call returns.

What is being written stands beside its place under a name of its own, `.NAME.XXXXXXXX.partial`, and is locked while its
process lives. A process that is killed leaves it; the next one that writes there takes it away.
"""

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from kshot.core.errors import StorageError
from kshot.core.json_text import to_json
from kshot.store.held import let_go, try_to_hold

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
_MOST_BYTES = 200  # of a name; the system's limit is 255, and ours adds 18


def write_text(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    write_file(path, lambda partial: partial.write_text(text, "utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, as `write_text` does."""
    write_text(path, to_json(value, indent=1) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, as `write_text` does; no more than one of them is held as text."""
    write_pieces(path, (to_json(row) + "\n" for row in rows))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write a text that comes in pieces, as `write_text` does."""

    def fill(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as opened:
            opened.writelines(pieces)

    write_file(path, fill)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file, which then takes its place; arguments and errors as `write_folder`."""
    with writable(path), _partial(path, is_folder=False) as partial:
        write(partial)
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)


def write_folder(path: Path, files: Mapping[str, str], more: Callable[[Path], None] | None = None) -> None:
    """Write a folder so that it appears whole; one that is there is replaced.

    Args:
        path: The folder.
        files: Text files by name.
        more: Called with the folder that is being written, to add what is not text.

    Raises:
        StorageError: As `write_text`.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path, is_folder=True) as partial:
            for name, text in files.items():
                (partial / name).write_text(text, "utf-8")
            if more:
                more(partial)
            sync_all(partial)
            put_in_place(partial, path)


def put_in_place(folder: Path, path: Path) -> None:
    """Give a folder another's place; the other one, if there is one, then stands in the place of the first."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _swap(folder, path)
    _sync(path.parent)


def _swap(folder: Path, path: Path) -> None:
    if not _exchange(folder, path):  # the system cannot: for a moment there is none
        aside = path.with_name(_partial_name(path))
        path.rename(aside)
        folder.rename(path)
        aside.rename(folder)


def sync_all(folder: Path) -> None:
    """Return when all files of a folder, and their names, are on the disk."""
    for place in (*folder.rglob("*"), folder):
        _sync(place)


def collect(folder: Path, name: str = "*") -> None:
    """Take away what killed processes have left unfinished in a folder.

    Args:
        folder: The folder.
        name: Only what was to be called so.
    """
    for left in folder.glob(f".{name}.*.partial"):
        if _PARTIAL.fullmatch(left.name) and (holding := try_to_hold(left)) is not None:
            _remove(left)
            let_go(holding)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say of an error of the system, while `path` is written, what is to be done."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} must be writable; the system says: {error.strerror or error}. What was committed before is kept: "
            "free space or fix the folder, then run the same command again."
        ) from error


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Give a new file or folder beside a path, to be filled; what is left of it at the end is taken away."""
    collect(path.parent, _short(path))
    holding = None
    while holding is None:  # until we hold it another process may take it for what is left, and take it away
        partial = path.with_name(_partial_name(path))
        partial.mkdir() if is_folder else partial.touch(exist_ok=False)
        holding = try_to_hold(partial)
    try:
        yield partial
    finally:
        _remove(partial)
        let_go(holding)


def _partial_name(path: Path) -> str:
    return f".{_short(path)}.{token_hex(4)}.partial"


def _short(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:_MOST_BYTES])


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def _sync(place: Path) -> None:
    """Return when a file, or the names in a folder, are on the disk."""
    if place.is_dir() and os.name == "nt":  # which cannot open folders
        return
    opened = os.open(place, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places at once; return False, with nothing changed, where the system cannot."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0
