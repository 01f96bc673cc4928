"""Read files of rows: JSON Lines, CSV and Parquet.

A row's number is its line in a text file, counted from 1 (in CSV the header is line 1, and a row that spans several
lines has the number of its last), and its place in a Parquet file.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kshot.core.errors import UserError
from kshot.tasks.parquet import read_parquet
from kshot.tasks.rows import Row, shown

SUFFIXES = (".jsonl", ".csv", ".parquet")
SEPARATORS = {";": "semicolons", "\t": "tabs"}  # of files that are called CSV all the same


@dataclass(frozen=True)
class Table:
    """Rows as they stand in one file or split.

    Attributes:
        source: What messages call it.
        fixed: Each row has every column, so an empty cell means that the row lacks it.
        cells: All values are text, so lists are written as "a|b".
    """

    source: str
    rows: tuple[Row, ...]
    fixed: bool = False
    cells: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of its rows, in the order of their first appearance."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))


def read_table(file: Path) -> Table:
    """Read a `.csv` or `.parquet` file, or else a `.jsonl` file; blank lines are skipped.

    Args:
        file: Text files are UTF-8; a byte order mark is tolerated.

    Raises:
        UserError: The file or a row of it cannot be read, or there are no rows.
    """
    if file.suffix.lower() == ".parquet":
        return Table(str(file), read_parquet(file), fixed=True)
    text = read_text(file)
    if not text.strip():
        raise UserError(f"{file} is empty; it must hold one example a line.")
    if file.suffix.lower() != ".csv":
        return Table(str(file), tuple(_jsonl_rows(str(file), text)))
    rows = tuple(_csv_rows(str(file), text))
    if not rows:
        raise UserError(f"{file} has a header but no data rows; it must hold one example a line.")
    return Table(str(file), rows, fixed=True, cells=True)


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file, without its byte order mark.

    Raises:
        UserError: The file cannot be read or is not UTF-8.
    """
    try:
        return decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None


def decoded(data: bytes, source: str) -> str:
    """Return UTF-8 bytes as text, without the byte order mark.

    Raises:
        UserError: They are something else.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        row, start = data.count(b"\n", 0, error.start) + 1, data.rfind(b"\n", 0, error.start) + 1
        raise UserError(
            f"{source} row {row} must be UTF-8, but byte {error.start - start + 1} of the row is "
            f"0x{data[error.start]:02x}; save the file as UTF-8."
        ) from None


def _jsonl_rows(source: str, text: str) -> Iterator[Row]:
    # Not splitlines(): it also breaks at U+2028 and others, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            detail = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{source} row {number} must be one JSON object on one line; {detail}.") from None
        if not isinstance(values, dict):
            remedy = "; write one object a line" if isinstance(values, list) else ""
            raise UserError(f"{source} row {number} must be a JSON object, such as {{…}}; got {shown(values)}{remedy}.")
        yield Row(source, number, values)


def _csv_rows(source: str, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(cells for cells in reader if cells)
        if len(header) == 1 and (other := next((name for c, name in SEPARATORS.items() if c in header[0]), None)):
            raise UserError(
                f"{source} row 1: cells must be separated by commas; the header has {other}; save it with commas."
            )
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise UserError(f"{source} row 1: the header must name each column once; '{twice[0]}' is there twice.")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{source} row {reader.line_num} must have {len(header)} cells, as the header has; got "
                    f"{len(cells)}; put quotes around cells with commas."
                )
            yield Row(source, reader.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{source} row {reader.line_num} must be CSV with commas and double quotes; {error}.") from None
