"""What a server has said of itself, in the cache folder: so that a finished run is read again without asking it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kshot.core.errors import StorageError
from kshot.core.paths import cache_folder
from kshot.core.seeding import digest
from kshot.store.scores import SqliteStore

T = TypeVar("T")


class ServerCache:
    """A small database for a server and a model; from any thread. Where the folder cannot be written nothing is kept.

    Args:
        url: The server's.
        model: The model's name there.
    """

    def __init__(self, url: str, model: str):
        self._file: Path = cache_folder() / "api" / f"{digest(url, model)[:16]}.sqlite"

    def record(self, key: str) -> dict[str, Any]:
        """Return the record of a key, or an empty one."""
        return self._with(lambda store: store.get_record(key)) or {}

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record in place of what is there."""
        self._with(lambda store: store.put_record(key, record))

    def count(self, text: str) -> int | None:
        """Return how many tokens a text has, if that is known."""
        found = self._with(lambda store: store.get([_key(text)])) or {}
        return int(found[_key(text)][0][0]) if found else None

    def put_count(self, text: str, n_tokens: int) -> None:
        """Keep how many tokens a text has; of the text itself nothing is kept."""
        self._with(lambda store: store.put([(_key(text), np.array([n_tokens], float), 0.0)]))

    def _with(self, use: Callable[[SqliteStore], T]) -> T | None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            store = SqliteStore(self._file)
        except (OSError, StorageError):
            return None
        try:
            return use(store)
        finally:
            store.close()


def _key(text: str) -> str:
    return digest("tokens", text)
