"""Every score and every prediction once, in SQLite: committed whole or not at all, so that killing loses one pack."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.errors import StorageError
from kshot.core.json_text import from_json, to_json
from kshot.core.types import FloatArray, Generation

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, log_probs BLOB NOT NULL, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, text TEXT NOT NULL, finished INTEGER, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS predictions (learner TEXT, position INTEGER, row TEXT NOT NULL,
                                        PRIMARY KEY (learner, position));
"""
_AT_ONCE = 500  # keys in one query; SQLite's limit on variables is higher everywhere


class SqliteStore:
    """The store of one run.

    Args:
        path: The database file; made if it is not there.

    Raises:
        StorageError: The file cannot be opened or is no database.
    """

    def __init__(self, path: Path):
        self._path = path
        with _as_storage_error(path):
            self._db = sqlite3.connect(path, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)

    def get(self, keys: Sequence[str]) -> dict[str, tuple[FloatArray, float]]:
        """Return (log-probabilities in nats, seconds) of those keys that are stored."""
        rows = self._rows("SELECT key, log_probs, seconds FROM scores", keys)
        return {key: (np.frombuffer(blob, dtype="<f8"), seconds) for key, blob, seconds in rows}

    def put(self, rows: Sequence[tuple[str, FloatArray, float]]) -> None:
        """Store (key, log-probabilities, seconds) in one transaction; a key that is there keeps its value.

        What is not finite is no score, and is asked again.
        """
        finite = [(key, np.asarray(v, dtype="<f8"), s) for key, v, s in rows if np.isfinite(v).all()]
        values = [(key, v.tobytes(), seconds) for key, v, seconds in finite]
        with _as_storage_error(self._path), self._db:
            self._db.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", values)

    def get_texts(self, keys: Sequence[str]) -> dict[str, tuple[Generation, float]]:
        """Return (generation, seconds) of those keys that are stored."""
        rows = self._rows("SELECT key, text, finished, seconds FROM texts", keys)
        return {key: (Generation(text, bool(finished)), seconds) for key, text, finished, seconds in rows}

    def put_texts(self, rows: Sequence[tuple[str, Generation, float]]) -> None:
        """Store (key, generation, seconds) in one transaction; a key that is there keeps its text."""
        values = [(key, g.text, g.finished, seconds) for key, g, seconds in rows]
        with _as_storage_error(self._path), self._db:
            self._db.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?, ?, ?)", values)

    def _rows(self, select: str, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return the rows of those keys that are there."""
        found: list[tuple[Any, ...]] = []
        with _as_storage_error(self._path):
            for i in range(0, len(keys), _AT_ONCE):
                part = keys[i : i + _AT_ONCE]
                found += self._db.execute(f"{select} WHERE key IN ({','.join('?' * len(part))})", part)
        return found

    def get_predictions(self, learner: str) -> list[dict[str, Any]]:
        """Return the rows stored for a learner's fingerprint, in the order of the stream."""
        with _as_storage_error(self._path):
            query = "SELECT row FROM predictions WHERE learner = ? ORDER BY position"
            return [from_json(row) for (row,) in self._db.execute(query, (learner,))]

    def put_predictions(self, learner: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store all of a learner's rows in one transaction."""
        values = [(learner, i, to_json(row)) for i, row in enumerate(rows)]
        with _as_storage_error(self._path), self._db:
            self._db.executemany("INSERT OR REPLACE INTO predictions VALUES (?, ?, ?)", values)

    def count(self) -> int:
        """Return how many scores are stored."""
        return int(self._db.execute("SELECT COUNT(*) FROM scores").fetchone()[0])

    def close(self) -> None:
        """Close the database."""
        self._db.close()


@contextmanager
def _as_storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"{path} must be a writable run database; SQLite says: {error}. What was committed before is kept: free "
            "space or fix the folder, then run the same command again."
        ) from error
