"""Arrays that are filled row by row in a safetensors file, memory-mapped: what is there survives an interruption.

Rows that are not written yet are NaN.

Source: the file format, https://github.com/huggingface/safetensors#format
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.store.files import writable, write_file

_FILL_ROWS_BYTES, _MOST_HEADER_BYTES = 2**24, 2**20


def open_rows(file: Path, shape: tuple[int, int], about: Mapping[str, str], *, rebuild: bool = False) -> np.memmap:
    """Return the float32 array `rows` of a safetensors file, which is made, all NaN, if it is not there.

    Args:
        file: The file.
        shape: Of the array.
        about: What the rows belong to; it stands in the file.
        rebuild: Replace a file that belongs to something else.

    Raises:
        UserError: The file belongs to something else, or is no such file; the text says what differs.
        StorageError: It cannot be written.
    """
    reason = _reason(file, shape, about) if file.exists() else "it is not there"
    if reason and file.exists() and not rebuild:
        raise UserError(
            f"{file} must hold gradients of this model and these examples; {reason}. Rebuild it with --rebuild, or "
            "name another folder with --gradients."
        )
    if reason:
        _make(file, shape, about)
    return np.memmap(file, dtype="<f4", mode="r+", offset=_read_header(file)[1], shape=shape)


def _reason(file: Path, shape: tuple[int, int], about: Mapping[str, str]) -> str | None:
    """Return why a file's rows are not those wanted, or None if they are."""
    try:
        header, _ = _read_header(file)
        found, kept = tuple(header["rows"]["shape"]), header["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is no file of gradients ({type(error).__name__}: {error})"
    differing = [name for name in about if kept.get(name) != about[name]]
    if differing:
        return f"what differs is: {', '.join(differing)}"
    return None if found == shape else f"its shape is {list(found)} instead of {list(shape)}"


def _read_header(file: Path) -> tuple[dict, int]:
    """Return a safetensors file's header and where its data begin."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        return from_json(opened.read(min(size, _MOST_HEADER_BYTES))), 8 + size


def _make(file: Path, shape: tuple[int, int], about: Mapping[str, str]) -> None:
    """Write the file with NaN everywhere, whole or not at all."""
    rows, width = shape
    data = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4 * rows * width]}
    header = to_json({"__metadata__": dict(about), "rows": data}).encode()
    header += b" " * (-(8 + len(header)) % 8)

    def fill(partial: Path) -> None:
        with partial.open("wb") as opened:
            opened.write(len(header).to_bytes(8, "little") + header)
            at_once = max(1, _FILL_ROWS_BYTES // (4 * width))
            for start in range(0, rows, at_once):
                opened.write(np.full((min(at_once, rows - start), width), np.nan, dtype="<f4").tobytes())

    with writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, fill)
