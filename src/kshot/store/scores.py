"""Every score and every prediction once, in SQLite: committed whole or not at all, so that killing loses one pack.

Each row has a checksum over its key and its value. A row that is not as it was written is deleted, as if it had never
been there, and what it held is computed again. There is no index beside the rows that could say something else.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kshot.core.errors import StorageError
from kshot.core.json_text import from_json, to_json
from kshot.core.ledger import Cost
from kshot.core.types import FloatArray, Generation

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (kind TEXT, key TEXT, value BLOB, checksum BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID
"""
_AT_ONCE = 500  # keys in one query; SQLite's limit on variables is higher everywhere
_DAMAGED = (  # what a file can be, not what a disk can say
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
)


class SqliteStore:
    """The store of one run.

    Args:
        path: The database file; made if it is not there.
        say: Told at the end how many rows were damaged, if there were any.

    Raises:
        StorageError: The file cannot be opened, or is no database that SQLite can read.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda text: None):
        self._path, self._say, self._n_damaged = path, say, 0
        with _in_words(path):
            self._db = sqlite3.connect(path, timeout=30)
            self._db.text_factory = bytes  # damaged text may not be UTF-8
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)

    def get(self, keys: Sequence[str]) -> dict[str, tuple[FloatArray, float]]:
        """Return (log-probabilities in nats, seconds) of those keys that are stored."""
        found = self._get("score", keys, lambda value: np.frombuffer(value, dtype="<f8"))
        return {key: (numbers[1:], float(numbers[0])) for key, numbers in found.items()}

    def put(self, rows: Sequence[tuple[str, FloatArray, float]], *, paid: Cost | None = None) -> None:
        """Store (key, log-probabilities, seconds) in one transaction; a key that is there keeps its value.

        What is not finite is no score, and is asked again. The calls of `paid` are added to `self.paid`.
        """
        self._put({"score": _finite(rows)}, paid=paid)

    def get_texts(self, keys: Sequence[str]) -> dict[str, tuple[Generation, float]]:
        """Return (generation, seconds) of those keys that are stored."""
        found = self._get("text", keys, from_json)
        return {key: (Generation(text, finished), seconds) for key, (text, finished, seconds) in found.items()}

    def put_texts(
        self,
        rows: Sequence[tuple[str, Generation, float]],
        *,
        beside: Sequence[tuple[str, FloatArray, float]] = (),
        paid: Cost | None = None,
    ) -> None:
        """Store (key, generation, seconds) in one transaction, as `put`; a key that is there keeps its text.

        Rows `beside` them are stored as `put` does.
        """
        texts = [(key, _json_bytes([g.text, g.finished, seconds])) for key, g, seconds in rows]
        self._put({"text": texts, "score": _finite(beside)}, paid=paid)

    @property
    def paid(self) -> Cost:
        """The calls whose answers were put here, with their tokens."""
        known = self._get("paid", [""], from_json).get("")
        return Cost(**known) if known else Cost()

    def get_record(self, key: str) -> dict[str, Any] | None:
        """Return the JSON object under a key, or None."""
        return self._get("record", [key], from_json).get(key)

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a JSON object under a key, in place of what is there."""
        self._put({"record": [(key, _json_bytes(record))]}, verb="REPLACE")

    def _get(self, kind: str, keys: Sequence[str], read: Callable[[bytes], T]) -> dict[str, T]:
        """Return what is read of the rows of those keys that are there; damaged ones are deleted."""
        found: dict[str, T] = {}
        damaged: list[tuple[str, str]] = []
        with _in_words(self._path):
            for i in range(0, len(keys), _AT_ONCE):
                part = keys[i : i + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value, checksum FROM kept WHERE kind = ? AND key IN ({marks})"
                for key, value, checksum in self._db.execute(query, (kind, *part)):
                    if isinstance(value, bytes) and checksum == _checksum(kind, key, value):
                        found[key.decode()] = read(value)
                    else:
                        damaged.append((kind, key.decode()))
            if damaged:
                with self._db:
                    self._db.executemany("DELETE FROM kept WHERE kind = ? AND key = ?", damaged)
        self._n_damaged += len(damaged)
        return found

    def _put(
        self, rows: Mapping[str, Sequence[tuple[str, bytes]]], *, verb: str = "IGNORE", paid: Cost | None = None
    ) -> None:
        """Store rows by their kind in one transaction."""
        total = self.paid + paid.of_calls if paid else None  # a run folder has one writer
        sealed = [row for kind, some in rows.items() for row in _sealed(kind, some)]
        with _in_words(self._path), self._db:
            self._db.executemany(f"INSERT OR {verb} INTO kept VALUES (?, ?, ?, ?)", sealed)
            if total:
                account = [("", _json_bytes(_calls(total)))]
                self._db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", _sealed("paid", account))

    def count(self) -> int:
        """Return how many scores are stored."""
        with _in_words(self._path):
            return int(self._db.execute("SELECT COUNT(*) FROM kept WHERE kind = 'score'").fetchone()[0])

    def close(self) -> None:
        """Close the database."""
        self._db.close()
        if self._n_damaged:
            rows = "1 row" if self._n_damaged == 1 else f"{self._n_damaged} rows"
            self._say(f"{self._path.name} was damaged: {rows} of it did not count, and were computed again")


def _finite(rows: Sequence[tuple[str, FloatArray, float]]) -> list[tuple[str, bytes]]:
    finite = [(key, np.concatenate(([seconds], values)).astype("<f8")) for key, values, seconds in rows]
    return [(key, numbers.tobytes()) for key, numbers in finite if np.isfinite(numbers).all()]


def _sealed(kind: str, rows: Sequence[tuple[str, bytes]]) -> list[tuple[str, str, bytes, bytes]]:
    return [(kind, key, value, _checksum(kind, key.encode(), value)) for key, value in rows]


def _calls(cost: Cost) -> dict[str, int]:
    return {name: value for name, value in vars(cost).items() if name == "calls" or name.endswith("_tokens")}


def _checksum(kind: str, key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(b"%b %b %b" % (kind.encode(), key, value), digest_size=16).digest()


def _json_bytes(value: Any) -> bytes:
    return to_json(value, ensure_ascii=True).encode("ascii")


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Say of an error of SQLite what is to be done."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where its words hold what is damaged
        if isinstance(error, UnicodeDecodeError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise StorageError(
                f"{path} must be a database that SQLite can read; it says: {error}. Delete {path} and run the same "
                "command again: what was in it is computed again."
            ) from error
        raise StorageError(
            f"{path} must be a writable run database; SQLite says: {error}. What was committed before is kept: free "
            "space or fix the folder, then run the same command again."
        ) from error
