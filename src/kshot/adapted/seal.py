"""The seal of a saved model: a list of its files with their sha256, written last, by which a changed one is found."""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from kshot.core.errors import UserError
from kshot.core.given_files import opened, text_of
from kshot.core.json_text import from_json
from kshot.core.schema import shaped
from kshot.store.files import write_json
from kshot.store.run_folder import BEST, MANIFEST

SEAL = "checksums.json"
_REMEDY = "Copy the whole folder again, or adapt again."
_MOST_FOLDERS = 32  # inside each other; recipes can be so 8 times


class _File(TypedDict):
    sha256: str
    size: int


class _Seal(TypedDict):
    files: dict[str, _File]


def write_seal(folder: Path) -> None:
    """Write what is in each file of a folder."""
    write_json(folder / SEAL, {"files": {name: _found(file) for name, file in files_of(folder).items()}})


def is_sealed(folder: Path) -> bool:
    """Return whether a folder has a seal, fitting or not."""
    return os.path.lexists(folder / SEAL)


def check_seal(folder: Path, only: Collection[str] = ()) -> None:
    """Refuse a folder that holds other files than its seal tells of, or others in them.

    Each file is read in pieces: one of trained weights can be larger than the memory.

    Args:
        folder: With a seal.
        only: The files to look at; empty for all, and that there are no others.

    Raises:
        UserError: The first that is missing, changed or too much; or the seal cannot be read.
    """
    listed, there = _listed(folder), files_of(folder)
    if not only and (odd := sorted(there.keys() - listed.keys())):
        raise UserError(
            f"{folder} must hold the files that its {SEAL} tells of and no other; '{odd[0]}' does not belong there. "
            "Move it out of the folder."
        )
    for name in only or sorted(listed):
        if name not in listed or name not in there:
            where = f"its {SEAL}" if name not in listed else "the folder"
            raise UserError(
                f"{folder} must be a whole model as kshot saved it; '{name}' is not in {where}. "
                f"Copy the whole folder, or adapt again{how_again(folder)}."
            )
        if _found(there[name], listed[name]["size"]) != listed[name]:
            raise UserError(
                f"{there[name]} must be as kshot wrote it; its size or sha256 is not that in {SEAL}: it has changed. "
                f"Copy the whole folder, or adapt again{how_again(folder)}."
            )


def how_again(folder: Path) -> str:
    """Return how a model is adapted again where it is the chosen one of a run; nothing where it is not."""
    is_of_run = folder.name == BEST and (folder.parent / MANIFEST).exists()
    return " (the same `kshot adapt` command writes it anew)" if is_of_run else ""


def state_of(folder: Path) -> Any:
    """Return what is another after any file of a folder was replaced or written."""
    try:
        stats = [(file, os.lstat(file)) for file in sorted(_inside(folder))]
    except OSError:  # one has gone in the meantime
        return None
    return [(str(file), s.st_ino, s.st_size, s.st_mtime_ns) for file, s in stats]


def _listed(folder: Path) -> dict[str, _File]:
    file = folder / SEAL
    try:
        said = from_json(text_of(_plain(file)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} must be readable JSON, as kshot wrote it; {error}. Copy the whole folder, or adapt again."
        ) from None
    listed = shaped(_Seal, said, file, _REMEDY)["files"]
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise UserError(
                f"{file} must name files of its own folder; got '{name}'. Copy the whole folder, or adapt again."
            )
    return listed


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a saved model by their places in it, all but the seal.

    Raises:
        UserError: There is something else than files and folders, or folders inside each other without end.
    """
    found = {}
    for file in map(_plain, _inside(folder)):
        place = file.relative_to(folder)
        if len(place.parts) > _MOST_FOLDERS:
            raise UserError(
                f"{folder} must have at most {_MOST_FOLDERS} folders inside each other, as kshot writes a few; "
                f"'{place.parts[0]}' has more. Move it out of the folder."
            )
        if not file.is_dir():
            found[place.as_posix()] = file
    found.pop(SEAL, None)
    return found


def _inside(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and in those inside it, down to the first that are one too many."""
    for root, folders, names in os.walk(folder):
        yield from (Path(root) / name for name in (*folders, *names))
        if len(Path(root).relative_to(folder).parts) >= _MOST_FOLDERS:
            folders.clear()


def _plain(file: Path) -> Path:
    """Return a file or folder, or refuse what is neither: a link leads elsewhere, and reading a pipe would not end."""
    if file.is_symlink() or (file.exists() and not (file.is_file() or file.is_dir())):
        raise UserError(
            f"{file} must be a plain file or folder; it is a link or a device. Copy what it stands for in its place."
        )
    return file


def _found(file: Path, size: int | None = None) -> _File:
    """Return what tells a file from others; its size alone where that is not `size`: one with holes takes hours."""
    try:
        with opened(file) as stream:
            n_bytes = os.fstat(stream.fileno()).st_size
            if size not in (None, n_bytes):
                return {"sha256": "", "size": n_bytes}
            return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": stream.tell()}
    except OSError as error:
        raise UserError(
            f"{file} must be readable; the system says: {error.strerror}. Copy the whole folder, or adapt again."
        ) from None
