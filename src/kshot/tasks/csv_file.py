"""Rows of CSV files: separated by commas, or by what the header or a first line `sep=;` says.

A blank after each separator is no part of the cells where the header has it, or where cells in quotes follow it.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

from kshot.core.errors import UserError
from kshot.tasks.rows import BadRow, Row, each_row
from kshot.tasks.text_file import lines_of

SEPARATORS: Mapping[str, str] = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAID = re.compile(r'"?sep=(?P<separator>.)"?[ ,;\t]*(\r\n|\r|\n)', re.I)
QUOTED_AFTER_BLANK = re.compile(' +"')
LIMIT = Lock()  # csv has one limit on the length of a cell for the whole process


def read_csv(
    source: str, text: str, bad: list[BadRow] | None = None, *, usual: str = ","
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Return the rows, all with the same columns, and notes on how they were read.

    Args:
        source: What messages call the file.
        text: All of it.
        bad: Rows that cannot be read are added to it.
        usual: What stands between cells, as far as the file's name tells.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: The text is not like that.
    """
    first_line, separator, notes = 0, None, ()
    if said := SAID.match(text):
        separator, text, first_line = said["separator"], text[said.end() :], 1
    with _any_length(len(text)):
        if separator is None:
            separator = _separator(source, text, usual)
            notes = (f"cells are separated by {SEPARATORS[separator]}, as in the header",) if separator != usual else ()
        records, after_blank = _records(source, text, separator, first_line)
    if not any(_width(cells) for _, cells in records):
        raise UserError(f"{source} has no cells; it must have a header and one example a line.")
    notes += ("blanks between a separator and a cell are left out",) if after_blank else ()
    while len(records) > 1 and len(records[-1][1]) > 1 and not _width(records[-1][1]):
        records.pop()  # spreadsheets write empty rows below the last one
    return _rows(source, separator, records, bad), notes


def _rows(
    source: str, separator: str, records: list[tuple[int, list[str]]], bad: list[BadRow] | None
) -> tuple[Row, ...]:
    (line, header), *rows = records
    if not rows:
        raise UserError(f"{source} has a header but no data rows; it must hold one example a line.")
    header = [name.strip("\ufeff\u200b \t") for name in header]
    header = header[: max(_width(cells) for _, cells in records)]
    if twice := sorted(name for name, n in Counter(header).items() if n > 1):
        what = f"'{twice[0]}' is there twice" if twice[0] else "more than one has no name"
        raise UserError(f"{source} row {line}: the header must name each column once; {what}; rename one of them.")
    known = [{cells[i] for _, cells in rows if i < len(cells)} for i in range(len(header))]
    for number, cells in rows:
        for name, cell, i in zip(header, cells, range(len(header)), strict=False):
            if _swallows(cell, i, separator, known):
                raise UserError(  # of the file: nobody knows which rows there are
                    f"{source} row {number}: the cell of '{name}' holds lines that look like rows, as after a double "
                    "quote that is never closed; close it, or write rows with such cells as JSON Lines."
                )
    return tuple(each_row(rows, lambda row: _row(Row(source, row[0], {}), header, row[1], separator), bad))


def _row(row: Row, header: list[str], cells: list[str], separator: str) -> Row:
    if _width(cells) <= len(header):
        cells = cells[: len(header)]  # spreadsheets write empty cells beside the last column
    if len(cells) != len(header):
        what = SEPARATORS.get(separator, f"'{separator}'")
        remedy = f"put quotes around cells with {what}" if len(cells) > len(header) else "write empty cells too"
        row.fail(f"it must have {len(header)} cells, as the header has; got {len(cells)}; {remedy}.")
    if [cell.strip() for cell in cells] == header and len(header) > 1:
        row.fail("it must be an example, but it is the header once more, as in joined files; leave it out.")
    return replace(row, values=dict(zip(header, cells, strict=True)))


def _records(source: str, text: str, separator: str, first_line: int) -> tuple[list[tuple[int, list[str]]], bool]:
    """Return the cells of each row with the number of its last line, and whether a blank before them was left out."""
    if any(cell[:1] == " " for cell in _header(text, separator)[1:]):
        return list(_cells(source, text, separator, first_line, after_blank=True)), True
    records = list(_cells(source, text, separator, first_line))
    if not any(QUOTED_AFTER_BLANK.match(cell) for _, cells in records for cell in cells[1:]):
        return records, False
    try:
        without = list(_cells(source, text, separator, first_line, after_blank=True))
    except UserError:  # these quotes are part of the text
        return records, False
    return without, without != records


def _cells(
    source: str, text: str, separator: str, first_line: int = 0, *, after_blank: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row with the number of its last line, and skip blank lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=after_blank, strict=True)
    before = first_line
    try:
        for cells in reader:
            before = first_line + reader.line_num
            if cells:
                yield before, cells
    except csv.Error as error:
        what = SEPARATORS.get(separator, f"'{separator}'")
        raise UserError(
            f"{source} row {before + 1} must be CSV with {what} and double quotes; {error}; close each double quote, "
            "and write one that is part of a cell twice."
        ) from None


def _separator(source: str, text: str, usual: str) -> str:
    """Return what separates the cells of the header, and of the rows where the header has several candidates.

    Raises:
        UserError: Rows can be read with more than one of them.
    """
    found = [separator for separator in SEPARATORS if len(_header(text, separator)) > 1]
    if usual != "," and usual in found:  # the file's name says so
        return usual
    if len(found) > 1:
        fitting = [separator for separator in found if _fits(text, separator)]
        if len(fitting) > 1:
            first, second = (SEPARATORS[separator] for separator in fitting[:2])
            raise UserError(
                f"{source}: the cells may be separated by {first} or by {second}, as all rows can be read both ways; "
                f"say which, with 'sep={fitting[0]}' or 'sep={fitting[1]}' as the first line."
            )
        return fitting[0] if fitting else found[0]
    return found[0] if found else usual


def _header(text: str, separator: str) -> list[str]:
    """Return the cells of the header; none if they cannot be told apart by `separator`."""
    try:
        return next((cells for _, cells in _cells("", text, separator)), [])
    except UserError:
        return []


def _fits(text: str, separator: str) -> bool:
    """Return whether all rows have the header's cells; empty ones at the end do not count."""
    try:
        (_, header), *rows = _records("", text, separator, 0)[0]
    except UserError:
        return False
    wide = _width(header)
    return all(_width(cells) <= wide <= len(cells) for _, cells in rows if _width(cells))


def _width(cells: Sequence[str]) -> int:
    return max((i for i, cell in enumerate(cells, 1) if cell.strip()), default=0)


def _swallows(cell: str, column: int, separator: str, known: Sequence[set[str]]) -> bool:
    """Return whether a line within a cell is a row, or an end of one: it has its cells, and one of them is known.

    The first line of the cell would end the row that begins before it, and the last one begin the row that ends after
    it; a file with one column cannot tell.
    """
    if len(known) == 1 or ("\n" not in cell and "\r" not in cell):
        return False
    first, *middle, last = (line.split(separator) for line in lines_of(cell))
    whole = [dict(enumerate(parts)) for parts in middle if len(parts) == len(known)]
    if column + len(first) == len(known):
        whole.append(dict(enumerate(first[1:], column + 1)))
    if len(last) == column + 1:
        whole.append(dict(enumerate(last[:-1])))
    return any(part and part in known[i] for parts in whole for i, part in parts.items())


@contextmanager
def _any_length(length: int) -> Iterator[None]:
    """Let cells have this length for as long as it is needed: the limit is the process's, not the reader's."""
    with LIMIT:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, length))
        try:
            yield
        finally:
            csv.field_size_limit(before)
