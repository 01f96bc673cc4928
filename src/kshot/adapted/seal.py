"""The seal of a saved model: a list of its files with their sha256, written last, by which a changed one is found."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from kshot.core.errors import UserError
from kshot.core.json_text import from_json
from kshot.core.schema import shaped
from kshot.store.files import write_json

SEAL = "checksums.json"
_REMEDY = "Copy the whole folder again, or adapt again."


class _File(TypedDict):
    sha256: str
    size: int


class _Seal(TypedDict):
    files: dict[str, _File]


def write_seal(folder: Path) -> None:
    """Write what is in each file of a folder."""
    write_json(folder / SEAL, {"files": {name: _found(file) for name, file in _files(folder).items()}})


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
    listed, there = _listed(folder), _files(folder)
    if not only and (odd := sorted(there.keys() - listed.keys())):
        raise UserError(
            f"{folder} must hold the files that its {SEAL} tells of and no other; '{odd[0]}' is too much. Take it away."
        )
    for name in only or sorted(listed):
        if name not in listed or name not in there:
            where = f"its {SEAL}" if name not in listed else "the folder"
            raise UserError(
                f"{folder} must be a whole model as kshot saved it; '{name}' is not in {where}. "
                "Copy the whole folder, or adapt again."
            )
        if _found(there[name]) != listed[name]:
            raise UserError(
                f"{there[name]} must be as kshot wrote it; its sha256 is not the one in {SEAL}: it has changed. "
                "Copy the whole folder, or adapt again."
            )


def state_of(folder: Path) -> Any:
    """Return what is another after any file of a folder was replaced or written."""
    try:
        stats = [(file, os.lstat(file)) for file in sorted(folder.rglob("*"))]
    except OSError:  # one has gone in the meantime
        return None
    return [(str(file), s.st_ino, s.st_size, s.st_mtime_ns) for file, s in stats]


def _listed(folder: Path) -> dict[str, _File]:
    file = folder / SEAL
    try:
        said = from_json(_plain(file).read_text("utf-8"))
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


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by their places in it, all but the seal."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            file = _plain(Path(root) / name)
            if name in names:
                found[file.relative_to(folder).as_posix()] = file
    found.pop(SEAL, None)
    return found


def _plain(file: Path) -> Path:
    """Return a file or folder, or refuse what is neither: a link leads elsewhere, and reading a pipe would not end."""
    if file.is_symlink() or (file.exists() and not (file.is_file() or file.is_dir())):
        raise UserError(
            f"{file} must be a plain file or folder; it is a link or a device. Copy what it stands for in its place."
        )
    return file


def _found(file: Path) -> _File:
    try:
        with file.open("rb") as stream:
            return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": stream.tell()}
    except OSError as error:
        raise UserError(
            f"{file} must be readable; the system says: {error.strerror}. Copy the whole folder, or adapt again."
        ) from None
