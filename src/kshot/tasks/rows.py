"""The rows of a `.jsonl` or `.csv` file as examples; the first thing that is wrong ends the reading.

A row's number is its line in the file, counted from 1 (in CSV the header is line 1, and a row that spans
several lines has the number of its last).
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kshot.core.errors import UserError, did_you_mean
from kshot.core.types import Example

FIELDS = ("input", "output", "context", "explanation", "choices", "references", "id")
REQUIRED = ("input", "output")
LISTS = ("choices", "references")
SURROGATE = re.compile("[\ud800-\udfff]")
HOW_TO_MAP = "name the columns, as in --columns input=question,output=answer"


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        names: For each of `FIELDS`, the column that holds it.
    """

    file: Path
    number: int
    values: Mapping[str, object]
    names: Mapping[str, str]

    def fail(self, message: str) -> NoReturn:
        """Raise a UserError that names the file and the row."""
        raise UserError(f"{self.file} row {self.number}: {message}")

    def example(self, split: str, *, labelled: bool = True) -> Example:
        """Return the row as an example; columns that hold none of `FIELDS` become its `meta`.

        Args:
            split: Names the row where it has no id of its own.
            labelled: The output must be there; otherwise it is left empty.

        Raises:
            UserError: A field is missing, empty, of the wrong type, or holds characters that are no text.
        """
        used = set(self.names.values())
        return Example(
            input=self._required("input"),
            output=self._required("output") if labelled else "",
            id=self._id() or f"{split}-{self.number}",
            context=self._text("context"),
            explanation=self._text("explanation"),
            choices=self._texts("choices"),
            references=self._texts("references"),
            meta={column: value for column, value in self.values.items() if column not in used},
        )

    def _required(self, field: str) -> str:
        column = self.names[field]
        if column not in self.values:
            present = ", ".join(self.values) or "no columns"
            self.fail(f"the column '{column}' is missing, the row has {present}; {HOW_TO_MAP}.")
        return self._checked(self.values[column], f"'{column}'")

    def _text(self, field: str) -> str | None:
        column = self.names.get(field)
        if column is None or column not in self.values:
            return None
        return self._checked(self.values[column], f"'{column}'")

    def _texts(self, field: str) -> tuple[str, ...]:
        column = self.names.get(field)
        if column is None or column not in self.values:
            return ()
        values = self.values[column]
        if not isinstance(values, list):
            self.fail(f"'{column}' must be a list of strings; got {shown(values)}.")
        return tuple(self._checked(value, f"'{column}' item {i}") for i, value in enumerate(values, 1))

    def _id(self) -> str | None:
        column = self.names.get("id")
        value = self.values.get(column) if column else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._text("id")

    def _checked(self, value: object, what: str) -> str:
        if not isinstance(value, str):
            remedy = f'; write it as "{json.dumps(value)}"' if isinstance(value, bool | int | float) else ""
            self.fail(f"{what} must be a string; got {shown(value)}{remedy}.")
        if flaw := text_flaw(value):
            self.fail(f"{what} must be text, but {flaw}.")
        if not value.strip():
            self.fail(f"{what} must not be empty; fill it in or leave it out.")
        return value


def read_rows(file: Path, columns: Mapping[str, str]) -> list[Row]:
    """Read the rows of a `.csv` file, or else of a `.jsonl` file.

    Blank lines are skipped. In CSV an empty cell means that the row lacks the column (input and output
    must be filled), and cells of `choices` and `references` are split at "|".

    Args:
        file: A UTF-8 file; a byte order mark is tolerated.
        columns: Field to column, where they are not `input` and `output` or `text` and `label`.

    Raises:
        UserError: The file or a row of it cannot be read, or there are no rows.
    """
    for name in columns:
        if name not in FIELDS:
            raise UserError(f"--columns must map fields of an example; got '{name}'.{did_you_mean(name, FIELDS)}")
    text = read_text(file)
    if not text.strip():
        raise UserError(f"{file} is empty; it must hold one example a line.")
    rows = list(_csv_rows(file, text, columns) if file.suffix.lower() == ".csv" else _jsonl_rows(file, text, columns))
    if not rows:
        raise UserError(f"{file} has a header but no data rows; it must hold one example a line.")
    return rows


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


def text_flaw(text: str) -> str | None:
    """Return why `text` cannot be given to a model, or None. JSON can spell both flaws with escapes."""
    if "\0" in text:
        return "it holds a NUL character; remove it"
    if SURROGATE.search(text):
        return "it holds half of a surrogate pair; remove it"
    return None


def _jsonl_rows(file: Path, text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    names: Mapping[str, str] | None = None
    # Not splitlines(): it also breaks at U+2028 and others, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            detail = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(f"{file} row {number} must be one JSON object on one line; {detail}.") from None
        if not isinstance(values, dict):
            raise UserError(f"{file} row {number} must be a JSON object, as {{…}}; got {shown(values)}.")
        names = names or _names(values.keys(), columns)
        yield Row(file, number, values, names)


def _csv_rows(file: Path, text: str, columns: Mapping[str, str]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(cells for cells in reader if cells)
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise UserError(f"{file} row 1: the header must name each column once; '{twice[0]}' is there twice.")
        names = _names(set(header), columns)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file} row {reader.line_num} must have {len(header)} cells, as the header has; got "
                    f"{len(cells)}; put quotes around cells with commas."
                )
            yield Row(file, reader.line_num, _cells(dict(zip(header, cells, strict=True)), names), names)
    except csv.Error as error:
        raise UserError(f"{file} row {reader.line_num} must be CSV with commas and double quotes; {error}.") from None


def _cells(values: Mapping[str, str], names: Mapping[str, str]) -> dict[str, object]:
    required = {names[field] for field in REQUIRED}
    row: dict[str, object] = {column: cell for column, cell in values.items() if cell or column in required}
    for column in {names[field] for field in LISTS if field in names} & row.keys():
        row[column] = [part.strip() for part in values[column].split("|")]
    return row


def _names(present: Set[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return each field's column; one that the user gave to a field does not fill its namesake too."""
    names = {f: f for f in FIELDS if f in REQUIRED or f not in columns.values()} | dict(columns)
    if not set(REQUIRED) & (columns.keys() | present) and "text" in present:
        names |= {"input": "text", "output": "label"}
    return names


def shown(value: object) -> str:
    """Return a JSON value for a message: its type, and how it begins."""
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    text = json.dumps(value, ensure_ascii=False)
    return f"{kinds[type(value)]} ({text[:40]}{'…' if len(text) > 40 else ''})" if value is not None else "null"
