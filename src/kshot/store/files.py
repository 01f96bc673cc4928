"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kshot.core.errors import StorageError
from kshot.core.json_text import to_json
from kshot.core.locks import PROCESS, SharedLock

_WRITING = SharedLock(PROCESS)  # what is not whole yet is named by the process alone


@_WRITING
def write_text(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _as_storage_error(path):
            with partial.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, as `write_text` does."""
    write_text(path, to_json(value, indent=1) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, as `write_text` does."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


@_WRITING
def write_folder(path: Path, files: Mapping[str, str], more: Callable[[Path], None] | None = None) -> None:
    """Write a folder so that it appears whole; one that is there is replaced.

    Args:
        path: The folder.
        files: Text files by name.
        more: Called with the folder that is being written, to add what is not text.

    Raises:
        StorageError: As `write_text`.
    """
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".old"))
    for left in (partial, old):  # by a killed process that had our id: in containers they repeat
        shutil.rmtree(left, ignore_errors=True)
    try:
        with _as_storage_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.mkdir()
        for name, text in files.items():
            write_text(partial / name, text)
        if more:
            with _as_storage_error(path):
                more(partial)
        with _as_storage_error(path):
            if path.exists():
                path.replace(old)  # not rmtree: killed in the middle of it, half a folder would be left
            partial.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _as_storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} must be writable; the system says: {error.strerror}. What was committed before is kept: free "
            "space or fix the folder, then run the same command again."
        ) from error
