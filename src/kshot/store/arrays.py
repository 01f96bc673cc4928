"""Arrays that are filled part by part in a safetensors file, memory-mapped: what is there survives an interruption.

Each part of a row has a checksum, 0 until it is filled, so that what is not as it was written counts as not there. What
is not written yet is NaN.

Source: the file format, https://github.com/huggingface/safetensors#format
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.store.files import writable, write_file

_FILL_ROWS_BYTES, _MOST_HEADER_BYTES = 2**24, 2**20


class Shape(NamedTuple):
    """How many rows, of how many parts each, of how many numbers each."""

    rows: int
    parts: int
    width: int

    @property
    def checksum_bytes(self) -> int:
        """Bytes of all checksums."""
        return 8 * self.rows * self.parts

    @property
    def data_bytes(self) -> int:
        """Bytes of checksums and rows."""
        return self.checksum_bytes + 4 * self.rows * self.parts * self.width


class Rows:
    """The rows in a file.

    Attributes:
        values: All rows, `[rows, parts * width]` in float32, memory-mapped.
        missing: Which parts are not there, `[rows, parts]`.
        n_damaged: How many of these had been filled, and are not as they were written.
    """

    def __init__(self, file: Path, shape: Shape, start: int):
        """Map the data that begin at a byte of a file, and look at every checksum."""
        self._width, per_row = shape.width, shape.parts * shape.width
        self._checksums = np.memmap(file, dtype="<u8", mode="r+", offset=start, shape=(shape.rows, shape.parts))
        start += shape.checksum_bytes
        self.values = np.memmap(file, dtype="<f4", mode="r+", offset=start, shape=(shape.rows, per_row))
        self.missing = np.array(self._checksums == 0)
        filled = np.argwhere(~self.missing)
        for i, part in filled:
            self.missing[i, part] = self._checksums[i, part] != _checksum(self.values[i, self._columns(part)])
        self.n_damaged = int(self.missing.sum()) - (self.missing.size - len(filled))

    def _columns(self, part: int) -> slice:
        return slice(part * self._width, (part + 1) * self._width)

    def fill(self, start: int, part: int, found: NDArray[np.float32]) -> None:
        """Write one part of some rows, `[n, width]`, from row `start` on."""
        stop = start + len(found)
        self.values[start:stop, self._columns(part)] = found
        self._checksums[start:stop, part] = [_checksum(row) for row in found]
        self.missing[start:stop, part] = False


def _checksum(row: NDArray[np.float32]) -> int:
    data = np.ascontiguousarray(row, dtype="<f4")
    return int.from_bytes(hashlib.blake2b(data.data, digest_size=8).digest(), "little") or 1  # 0 is: not filled


def open_rows(
    file: Path,
    shape: Shape,
    about: Mapping[str, str],
    *,
    rebuild: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Rows:
    """Return the rows of a safetensors file, which is made if it is not there.

    Args:
        file: The file.
        shape: Of the rows.
        about: What the rows belong to; it stands in the file.
        rebuild: Replace a file that belongs to something else, or is damaged.
        say: Told what is replaced or damaged.

    Raises:
        UserError: The file belongs to something else, or is no such file; the text says what differs.
        StorageError: It cannot be written.
    """
    header = _header(shape, about)
    reason = _reason(file, shape, about, header) if file.exists() else "it is not there"
    if reason and file.exists():
        if not rebuild:
            raise UserError(
                f"{file} must hold gradients of this model and these examples; {reason}. Rebuild it with --rebuild, or "
                "name another folder with --gradients."
            )
        say(f"{file.name} is made anew; {reason}")
    if reason:
        _make(file, shape, header)
    rows = Rows(file, shape, len(header))
    if rows.n_damaged:
        say(f"{file.name} was damaged: {rows.n_damaged} of its {rows.missing.size} gradients are computed again")
    return rows


def _header(shape: Shape, about: Mapping[str, str]) -> bytes:
    """Return what stands before the data."""
    between, end, rows, parts = shape.checksum_bytes, shape.data_bytes, shape.rows, shape.parts
    tensors = {
        "checksums": {"dtype": "U64", "shape": [rows, parts], "data_offsets": [0, between]},
        "rows": {"dtype": "F32", "shape": [rows, parts * shape.width], "data_offsets": [between, end]},
    }
    text = to_json({"__metadata__": dict(about), **tensors}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _reason(file: Path, shape: Shape, about: Mapping[str, str], header: bytes) -> str | None:
    """Return why a file's rows are not those wanted, or None if they are."""
    size, whole = file.stat().st_size, len(header) + shape.data_bytes
    with file.open("rb") as opened:
        start = opened.read(len(header))
        if start == header:
            return None if size == whole else f"it has {size} bytes instead of {whole}"
        opened.seek(0)
        n = int.from_bytes(opened.read(8), "little")
        try:
            found = from_json(opened.read(min(n, _MOST_HEADER_BYTES)))
            kept, dimensions = found["__metadata__"], found["rows"]["shape"]
            differing = [name for name in about if kept.get(name) != about[name]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"it is no file of gradients ({type(error).__name__}: {error})"
    if differing:
        return f"what differs is: {', '.join(differing)}"
    return f"its shape is {dimensions} instead of {[shape.rows, shape.parts * shape.width]}, or its header is damaged"


def _make(file: Path, shape: Shape, header: bytes) -> None:
    """Write the file with nothing filled, whole or not at all."""
    per_row = shape.parts * shape.width

    def fill(partial: Path) -> None:
        with partial.open("wb") as opened:
            opened.write(header + bytes(shape.checksum_bytes))
            at_once = max(1, _FILL_ROWS_BYTES // (4 * per_row))
            for start in range(0, shape.rows, at_once):
                opened.write(np.full((min(at_once, shape.rows - start), per_row), np.nan, dtype="<f4").tobytes())

    with writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, fill)
