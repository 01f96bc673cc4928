"""What a server has said of itself, in the cache folder: so that a finished run is read again without asking it."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from kshot.core.errors import StorageError
from kshot.core.paths import cache_folder
from kshot.core.seeding import digest
from kshot.store.scores import SqliteStore

T = TypeVar("T")

_COUNTS = "counts"
_AT_ONCE = 256  # counts that are written together


class ServerCache:
    """A small database for a server and a model; from any thread. Where the folder cannot be written nothing is kept.

    Args:
        url: The server's.
        model: The model's name there.
    """

    def __init__(self, url: str, model: str):
        self._file: Path = cache_folder() / "api" / f"{digest(url, model)[:16]}.sqlite"
        self._counts: dict[str, int] | None = None  # read when they are needed
        self._new: dict[str, int] = {}
        self._lock = Lock()
        weakref.finalize(self, _keep_counts, self._file, self._new)  # also at the end of the process

    def record(self, key: str) -> dict[str, Any]:
        """Return the record of a key, or an empty one."""
        return _with(self._file, lambda store: store.get_record(key)) or {}

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record in place of what is there."""
        _with(self._file, lambda store: store.put_record(key, record))

    def count(self, text: str) -> int | None:
        """Return how many tokens a text has, if that is known."""
        with self._lock:
            if self._counts is None:
                self._counts = self.record(_COUNTS)
            return self._counts.get(_key(text))

    def put_count(self, text: str, n_tokens: int) -> None:
        """Keep how many tokens a text has; of the text itself nothing is kept."""
        with self._lock:
            self._new[_key(text)] = n_tokens
            if self._counts is not None:
                self._counts[_key(text)] = n_tokens
            if len(self._new) >= _AT_ONCE:
                _keep_counts(self._file, self._new)


def _keep_counts(file: Path, new: dict[str, int]) -> None:
    """Add counts to those on the disk, and forget that they are new."""
    if new:
        _with(file, lambda store: store.put_record(_COUNTS, {**(store.get_record(_COUNTS) or {}), **new}))
        new.clear()


def _with(file: Path, use: Callable[[SqliteStore], T]) -> T | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(SqliteStore(file)) as store:
            return use(store)
    except (OSError, StorageError):  # of a full disk too
        return None


def _key(text: str) -> str:
    return digest(text)[:20]
