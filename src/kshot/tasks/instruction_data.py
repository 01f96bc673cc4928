"""Columns beside an instruction or a question: `system` (`system_prompt`) and `history`, as Alpaca's files have them.

A system text that is the same in every row (train and test) is the task's instruction; others begin the context of
their rows. `history` is a list of earlier turns, each the user's text and the answer, which come after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kshot.tasks.conversations import joined, system_column, turn
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import Row, each_row
from kshot.tasks.tables import Table

INPUTS = ("instruction", "prompt", "question", "query")  # beside which `system` is what it says
HISTORY = "history"


def with_what_was_said(
    tables: Sequence[Table], names: Mapping[str, str], instruction: str | None = None
) -> tuple[list[Table], str, tuple[str, ...]]:
    """Put system texts and earlier turns into each row's context, where the input stands in one of `INPUTS`.

    Args:
        tables: Train rows, then test rows; or rows to be answered.
        names: For each field the column that holds it.
        instruction: That of rows to be answered; None where the rows say what it is.

    Returns:
        The tables, the text that all rows share or "", and notes.

    Raises:
        BadRowsError: Rows whose system text is none.
    """
    present = tables[0].columns
    taken = {field: column for field, column in names.items() if column in present}
    if names["input"].lower() not in INPUTS:
        return list(tables), "", ()
    system = system_column(present, taken)
    turns = HISTORY if HISTORY in present and HISTORY not in taken.values() and _holds_turns(tables) else None
    if system is None and turns is None:
        return list(tables), "", ()
    texts = {text for table in tables for text in each_row(table.rows, partial(_system, column=system))}
    shared = instruction if instruction is not None else next(iter(texts)) if len(texts) == 1 else ""
    context = names.get("context", "context")

    def with_context(row: Row) -> Row:
        text = _system(row, system)
        parts = [text] if text not in ("", shared) else []
        for asked, answered in (row.values.get(turns) or ()) if turns else ():  # pyright: ignore[reportGeneralTypeIssues]
            parts += [turn("user", asked), turn("assistant", answered)]
        values: dict[str, Any] = {c: v for c, v in row.values.items() if c not in (system, turns)}
        if parts:
            values[context] = joined(values.get(context), parts)
        return replace(row, values=values)

    made = [replace(table, rows=tuple(map(with_context, table.rows))) for table in tables]
    notes = [f"the column '{system}' begins the context"] if texts - {"", shared} else []
    notes += [f"the column '{turns}' holds earlier turns, which are in the context"] if turns else []
    return made, shared, tuple(notes)


def _system(row: Row, column: str | None) -> str:
    value = row.values.get(column) if column else None
    return "" if is_missing(value) else row.text(value, f"'{column}'")


def _holds_turns(tables: Sequence[Table]) -> bool:
    values = [value for table in tables for row in table.rows if not is_missing(value := row.values.get(HISTORY))]
    return bool(values) and all(
        isinstance(value, list)
        and all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(isinstance(text, str) and not is_missing(text) for text in pair)
            for pair in value
        )
        for value in values
    )
