"""JSON that says itself whether it is whole: its object ends with the sha256 of all before it.

The sum is of the value, not of the text, so that an object that is read and written again stays whole.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kshot.core.errors import NotFiniteError
from kshot.core.json_text import to_json
from kshot.store.files import write_pieces

SUM = "sha256"
_DEPTH = 3  # of a record that is written in pieces: its parts, their members, the rows of these


def write_summed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with its sum, in pieces, as the whole text of one may be large.

    Raises:
        StorageError: As `write_text`.
    """
    write_pieces(path, _with_sum(value))


def sum_of(value: Mapping[str, Any]) -> str:
    """Return the sha256 of an object as JSON, without its sum."""
    found = hashlib.sha256()
    for piece in _pieces({name: part for name, part in value.items() if name != SUM}, _DEPTH):
        found.update(piece.encode("utf-8", "surrogatepass"))  # which a damaged file may spell
    return found.hexdigest()


def fits(value: Mapping[str, Any], said: object) -> bool:
    """Return whether an object has the sum that is said of it."""
    try:
        return said == sum_of(value)
    except NotFiniteError:  # a damaged file may say 1e999
        return False


def sum_of_file(file: Path) -> str:
    """Return the sha256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _with_sum(value: Mapping[str, Any]) -> Iterator[str]:
    found, held = hashlib.sha256(), ""
    for piece in _pieces(value, _DEPTH):
        found.update(piece.encode())
        yield held
        held = piece
    yield f', "{SUM}": "{found.hexdigest()}"{held}'


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """Return the text of `to_json` in pieces, which end where members of the outer objects and lists do."""
    if depth and isinstance(value, Mapping):
        ends, members = "{}", ((f"{to_json(name)}: ", inner) for name, inner in value.items())
    elif depth and isinstance(value, list | tuple):
        ends, members = "[]", (("", inner) for inner in value)
    else:
        yield to_json(value)
        return
    yield ends[0]
    for i, (name, inner) in enumerate(members):
        yield f", {name}" if i else name
        yield from _pieces(inner, depth - 1)
    yield ends[1]
