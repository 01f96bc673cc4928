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
from functools import partial
from pathlib import Path

from kshot.core.errors import UserError
from kshot.tasks.parquet import read_parquet
from kshot.tasks.rows import BadRow, BadRowsError, Row, each_row, shown

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


def read_table(file: Path, bad: list[BadRow] | None = None) -> Table:
    """Read a `.csv` or `.parquet` file, or else a `.jsonl` file; blank lines are skipped.

    Args:
        file: Text files are UTF-8; a byte order mark is tolerated.
        bad: Rows that cannot be read are added to it.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: The file cannot be read, or there are no rows.
    """
    if file.suffix.lower() == ".parquet":
        return Table(str(file), read_parquet(file), fixed=True)
    text = read_text(file)
    if not text.strip():
        raise UserError(f"{file} is empty; it must hold one example a line.")
    if file.suffix.lower() != ".csv":
        # Not splitlines(): it also breaks at U+2028 and others, which JSON allows inside a string.
        lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
        return Table(str(file), tuple(each_row(lines, partial(_jsonl_row, str(file)), bad)))
    cells = _csv_cells(str(file), text)
    _, header = next(cells)
    n_bad = len(bad or ())
    rows = tuple(each_row(cells, partial(_csv_row, str(file), header), bad))
    if not rows and len(bad or ()) == n_bad:
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


def _jsonl_row(source: str, numbered: tuple[int, str]) -> Row:
    number, line = numbered
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        text = f"{source} row {number} must be one JSON object on one line; {detail}."
        raise BadRowsError([BadRow(source, number, text)]) from None
    if not isinstance(values, dict):
        remedy = "; write one object a line" if isinstance(values, list) else ""
        text = f"{source} row {number} must be a JSON object, such as {{…}}; got {shown(values)}{remedy}."
        raise BadRowsError([BadRow(source, number, text)])
    return Row(source, number, values)


def _csv_cells(source: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Iterate over the header and the rows that are not blank, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(cells for cells in reader if cells)
        if len(header) == 1 and (other := next((name for c, name in SEPARATORS.items() if c in header[0]), None)):
            raise UserError(
                f"{source} row 1: cells must be separated by commas; the header has {other}; save it with commas."
            )
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise UserError(f"{source} row 1: the header must name each column once; '{twice[0]}' is there twice.")
        yield reader.line_num, header
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{source} row {reader.line_num} must be CSV with commas and double quotes; {error}.") from None


def _csv_row(source: str, header: list[str], numbered: tuple[int, list[str]]) -> Row:
    number, cells = numbered
    if len(cells) != len(header):
        text = (
            f"{source} row {number} must have {len(header)} cells, as the header has; got {len(cells)}; put quotes "
            "around cells with commas."
        )
        raise BadRowsError([BadRow(source, number, text)])
    return Row(source, number, dict(zip(header, cells, strict=True)))
