"""Files and folders that are written whole or not at all, and are on the disk when a call returns.

What is being written stands beside its place under a name of its own, `.NAME.XXXXXXXX.partial`, and is locked while its
process lives. A process that is killed leaves it; the next one that writes there takes it away. Where the system cannot
exchange two folders at once, the older one is put aside for a moment, as `.NAME.XXXXXXXX.aside`.
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

from kshot.core.errors import KshotError, StorageError, UserError
from kshot.core.json_text import to_json
from kshot.store.disk_faults import disk_fault
from kshot.store.held import is_mine, let_go, try_to_hold

_HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<what>partial|aside)")
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
        sync(partial)
        partial.replace(path)
        sync(path.parent)


def write_folder(
    path: Path, files: Mapping[str, str], more: Callable[[Path], None] | None = None, *, replaces: bool = True
) -> None:
    """Write a folder so that it appears whole.

    Args:
        path: The folder.
        files: Text files by name.
        more: Called with the folder that is being written, to add what is not text.
        replaces: Whether one that is there, and is not empty, is replaced.

    Raises:
        UserError: There is one that must not be replaced.
        StorageError: As `write_text`.
    """
    with writable(path):
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path, is_folder=True) as partial:
            for name, text in files.items():
                (partial / name).write_text(text, "utf-8")
            if more:
                more(partial)
            sync_all(partial)
            if replaces:
                put_in_place(partial, path)
            elif not _takes(partial, path):
                raise UserError(
                    f"{path} must be new or empty; somebody else has written into it in the meantime. Name another "
                    "folder."
                )
            sync(path.parent)


def put_in_place(folder: Path, path: Path) -> None:
    """Give a folder another's place; the other one, if there is one, then stands in the place of the first."""
    while not (_takes(folder, path) or _exchange(folder, path)):  # the system cannot: for a moment there is none
        aside = path.with_name(_hidden_name(path, "aside"))
        path.rename(aside)
        if _takes(folder, path):
            with suppress(FileNotFoundError):  # who came by has taken it away
                aside.rename(folder)
            break


def _takes(folder: Path, path: Path) -> bool:
    """Rename a folder, and return True, if nothing, or an empty folder, is in its way."""
    try:
        folder.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def sync_all(folder: Path) -> None:
    """Return when all files of a folder, and their names, are on the disk."""
    for place in (*folder.rglob("*"), folder):
        sync(place)


def collect(folder: Path, name: str = "") -> None:
    """Take away what killed processes have left unfinished in a folder, and put back what they have put aside.

    Args:
        folder: The folder.
        name: Only what was to be called so.
    """
    with suppress(OSError):  # where nothing can be listed, or changed, all stays as it is
        for left in os.listdir(folder):
            if (found := _HIDDEN.fullmatch(left)) and (not name or found["name"] == _short(folder / name)):
                _collect(folder / left, folder / found["name"], was_whole=found["what"] == "aside")


def _collect(left: Path, path: Path, *, was_whole: bool) -> None:
    """Take away what stood, or was to stand, at a path, unless a process is at work on it."""
    holding = try_to_hold(left)
    if is_mine(holding):
        if was_whole and not path.exists():
            left.rename(path)
        else:
            _remove(left)
    let_go(holding)


def discard(folder: Path) -> None:
    """Take a folder away so that no reader ever sees half of it."""
    aside = folder.with_name(_hidden_name(folder))
    folder.rename(aside)
    _remove(aside)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say of an error of the system, while `path` is written, what is to be done."""
    try:
        yield
    except KshotError:
        raise
    except Exception as error:
        said = disk_fault(error) or (isinstance(error, OSError) and (error.strerror or error))
        if not said:
            raise
        raise StorageError(
            f"{_known_as(path)} must be writable; the system says: {said}. What was committed before is kept: "
            "free space or fix the folder, then run the same command again."
        ) from error


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Give a new file or folder beside a path, to be filled; what is left of it at the end is taken away."""
    collect(path.parent, path.name)
    partial, holding = path, None
    while holding is None:  # until we hold it another process may take it for what is left, and take it away
        partial = path.with_name(_hidden_name(path))
        partial.mkdir() if is_folder else partial.touch(exist_ok=False)
        holding = try_to_hold(partial, wait=True)
    try:
        yield partial
    finally:
        _remove(partial)
        let_go(holding)


def _hidden_name(path: Path, what: str = "partial") -> str:
    return f".{_short(path)}.{token_hex(4)}.{what}"


def _known_as(path: Path) -> Path:
    """Return the path that a user knows, for one in a folder that is being written."""
    for place in reversed(path.parents):  # one may be written in another
        if found := _HIDDEN.fullmatch(place.name):
            return place.parent if found["name"].startswith(".") else place.with_name(found["name"])
    return path


def _short(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:_MOST_BYTES])


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def sync(place: Path) -> None:
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
