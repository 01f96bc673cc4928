"""Outputs that are written as numbers: class numbers become their text, places in the choices the chosen text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kshot.tasks.rows import Row, shown

# How an output may say which of the choices it is; None where it does not say so.
PLACES: Mapping[str, Callable[[str], int | None]] = {
    "the number of the choice, counted from 0": lambda output: int(output) if output.isdecimal() else None,
    "the number of the choice, counted from 1": lambda output: int(output) - 1 if output.isdecimal() else None,
    "the letter of the choice": lambda output: ord(output) - ord("A") if len(output) == 1 else None,
}


def chosen_texts(splits: Sequence[Sequence[Row]], names: Mapping[str, str]) -> tuple[list[list[Row]], tuple[str, ...]]:
    """Put the chosen text in place of its number or letter, if that is how train rows say their choice.

    Left as they are: outputs of which one is the text of a choice of its row, and numbers that may be counted from 0
    as well as from 1.

    Returns:
        Train and test rows, and a note if they were changed.

    Raises:
        UserError: A test row does not say its choice in the way of the train rows.
    """
    column = names["output"]

    def parts(row: Row) -> tuple[str, list[Any]]:
        choices = row.values.get(names.get("choices", "choices"))
        return str(row.values.get(column)), choices if isinstance(choices, list) else []

    train = [parts(row) for row in splits[0]]
    fitting = [how for how in PLACES if all(_chosen(how, *row) is not None for row in train)]
    if len(fitting) != 1 or any(output in choices for output, choices in train):
        return [list(rows) for rows in splits], ()
    (how,) = fitting

    def with_text(row: Row) -> Row:
        output, choices = parts(row)
        text = _chosen(how, output, choices)
        if text is None and choices and output not in choices and row.values.get(column) is not None:
            row.fail(
                f"'{column}' must hold {how}, as all rows of train do, and there are {len(choices)}; got "
                f"{shown(row.values[column])}; correct it, or leave the row out."
            )
        return row if text is None else replace(row, values={**row.values, column: text})

    note = f"the column '{column}' holds {how}; it is read as the text of that choice"
    return [[with_text(row) for row in rows] for rows in splits], (note,)


def _chosen(how: str, output: str, choices: list[Any]) -> Any:
    place = PLACES[how](output)
    return choices[place] if place is not None and 0 <= place < len(choices) else None


def numbers_as_text(rows: Sequence[Row], names: Mapping[str, str]) -> tuple[list[Row], tuple[str, ...]]:
    """Turn outputs and references into text where all of a column are integers or booleans, as class numbers are.

    A column that holds a number among texts is left as it is, to be refused: the number is likely a slip.

    Returns:
        The rows, and a note on each column that was changed.
    """
    notes = []
    rows = list(rows)
    for field in ("output", "references"):
        column = names.get(field, field)
        found = [row.values[column] for row in rows if row.values.get(column) is not None]
        items = [item for value in found for item in (value if isinstance(value, list) else [value])]
        if not items or not all(isinstance(item, int) for item in items):
            continue
        if field == "output" and any(isinstance(value, list) for value in found):
            continue
        rows = [
            replace(row, values={c: _as_text(v) if c == column else v for c, v in row.values.items()}) for row in rows
        ]
        notes.append(
            f"the column '{column}' holds numbers or booleans; they are read as text, such as '{_as_text(items[0])}'"
        )
    return rows, tuple(notes)


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value if value is None else json.dumps(value)
