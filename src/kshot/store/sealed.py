"""JSON lines whose last line says how many there are before it, and their sha256."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kshot.core.errors import DamagedError
from kshot.core.json_text import from_json, to_json
from kshot.store.files import write_text


def write_sealed(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, and the line that seals them.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    lines = [to_json(row) + "\n" for row in rows]
    write_text(file, "".join([*lines, to_json(_seal(lines)) + "\n"]))


def read_sealed(file: Path) -> list[Any]:
    """Read what `write_sealed` wrote.

    Raises:
        DamagedError: It is not as it was written.
    """
    try:
        *lines, last = file.read_text("utf-8").split("\n")[:-1]
        if from_json(last) != _seal([line + "\n" for line in lines]):
            raise ValueError("its last line does not fit the others")
        return [from_json(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DamagedError(
            f"{file} must be as kshot wrote it; {error}. Delete it and run the same command again: it is made anew."
        ) from error


def _seal(lines: list[str]) -> dict[str, Any]:
    return {"rows": len(lines), "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}
