"""Rows of JSON files: an object on each line, or all of them in one list, which may stand inside an object."""

import json
from collections import Counter
from typing import Any

from kshot.core.errors import UserError
from kshot.tasks.missing import without_nan
from kshot.tasks.rows import REQUIRED, BadRow, Row, each_row, shown, text_flaw
from kshot.tasks.text_file import lines_of

# What the json library says, and what it means.
FLAWS = {
    "Unterminated string": "a quote that is opened at {} is never closed",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing at {}",
    "Expecting ':' delimiter": "a colon is missing at {}",
    "Expecting value": "no value begins at {}: it must be a text in double quotes, a number, true, false, null, a list "
    "or an object",
    "Expecting property name": "a name in double quotes is missing at {}",
    "Extra data": "it goes on at {}, where the value is complete",
    "Invalid control character": "a text holds a control character at {} (a tab is written \\t)",
    "Invalid \\": "the backslash at {} begins no character (a backslash itself is written \\\\)",
}
TOO_LONG = "a number in it has too many digits"
LISTS_OF_ROWS = ("data", "rows", "examples", "instances", "items", "records", "train")


def read_json(source: str, text: str, bad: list[BadRow] | None = None) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Return the rows, and notes on how they were found; blank lines are skipped.

    The number of a row is its line, or its place in the list where all rows are one JSON value.

    Args:
        source: What messages call the file.
        text: All of it.
        bad: Rows that cannot be read are added to it.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: The text is not like that.
    """
    lines = [(number, line) for number, line in enumerate(lines_of(text), 1) if line.strip()]
    if len(lines) == 1:
        values = each_row(lines, lambda line: _value_of_line(source, *line), bad)
        return _rows_of_value(source, lines[0][0], values[0], bad) if values else ((), ())
    if not _goes_on(lines[0][1], lines[1][1]):
        rows = each_row(lines, lambda line: _row(source, line[0], _value_of_line(source, *line)), bad)
        return tuple(rows), ()
    try:
        return _rows_of_value(source, 1, _parsed(text), bad)
    except ValueError as error:
        raise UserError(
            f"{source} must hold one object a line, or be one JSON value, but {_detail(error)}; correct it, or write "
            "one object a line, as with: jq -c ."
        ) from None


def _value_of_line(source: str, number: int, line: str) -> Any:
    try:
        return _parsed(line)
    except ValueError as error:
        Row(source, number, {}).fail(
            f"it must be one JSON object on one line, but {_detail(error)}; correct it, or leave the row out."
        )


def _rows_of_value(
    source: str, number: int, value: Any, bad: list[BadRow] | None
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    notes = ()
    if isinstance(value, dict):
        is_row = not value.keys().isdisjoint(REQUIRED)
        inside = [key for key in LISTS_OF_ROWS if _is_rows(value.get(key)) and not is_row]
        if len(inside) > 1 or (inside and any(_is_rows(value.get(key)) for key in ("test", "validation", "dev"))):
            found = ", ".join(key for key in value if _is_rows(value[key]))
            raise UserError(f"{source} must hold one list of rows; it has {found}; write each into a file of its own.")
        if value and all(isinstance(v, dict) and "0" in v for v in value.values()):
            raise UserError(
                f"{source} must hold rows, but it holds columns ({', '.join(value)}); write it with pandas as "
                "df.to_json(FILE, orient='records', lines=True)."
            )
        if inside:
            others = [key for key in value if key != inside[0]]
            notes = (f"rows are read from '{inside[0]}'" + (f"; not used: {', '.join(others)}" if others else ""),)
            value = value[inside[0]]
    if value == []:
        raise UserError(f"{source} is an empty list; it must hold one example an object.")
    numbered = enumerate(value, 1) if isinstance(value, list) else [(number, value)]
    return tuple(each_row(numbered, lambda values: _row(source, *values), bad)), notes


def _row(source: str, number: int, values: Any) -> Row:
    if not isinstance(values, dict):
        Row(source, number, {}).fail(
            f"it must be a JSON object, such as {{…}}; got {shown(values)}; write one, or leave the row out."
        )
    if flaw := next(filter(None, map(text_flaw, values)), None):
        Row(source, number, {}).fail(f"the name of each column must be text, but {flaw}.")
    return Row(source, number, without_nan(values))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _parsed(text: str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: It is none, is nested too deeply, or an object names a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("its lists and objects stand too deep in one another") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it names '{twice}' twice")
    return found


def _goes_on(first: str, second: str) -> bool:
    """Return whether the first line begins a JSON value that goes on in the second, which is no row of its own."""
    try:
        _parsed(first)
    except json.JSONDecodeError as error:
        return error.pos >= len(first.rstrip()) and (first.lstrip()[0] == "[" or not second.lstrip().startswith("{"))
    except ValueError:
        return False
    return False


def _detail(error: ValueError) -> str:
    """Return what is wrong with a text that is no JSON, for the end of a sentence."""
    if not isinstance(error, json.JSONDecodeError):
        return TOO_LONG if str(error).startswith("Exceeds the limit") else str(error)
    place = f"{f'line {error.lineno} ' if error.lineno > 1 else ''}column {error.colno}"
    known = next((what for said, what in FLAWS.items() if error.msg.startswith(said)), None)
    return known.format(place) if known else f"{error.msg} at {place}"
