"""Inputs to be answered: rows without outputs, read as the rows of the task were.

A file, or a mapping in Python, is read with the columns of the task's own files if it has the column that held the
input there; else with the fields' own names if it has `input`. Columns of another file are guessed as for a task.
Conversations end with the user's message, the input; an answer after it is not read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.tasks.columns import Layout, check_columns, find_columns, laid_out, named
from kshot.tasks.conversations import as_inputs, columns_of_messages
from kshot.tasks.labels import trimmed_examples
from kshot.tasks.rows import Row, each_row
from kshot.tasks.tables import SUFFIXES, Table, decoded, read_table, read_text

OTHER_TABLES = (".json", ".tsv", ".xlsx", ".xls", ".yaml", ".yml", ".xml")


def read_inputs(
    source: str | None, stdin: BinaryIO, columns: Mapping[str, str] | None = None, *, task: Task | None = None
) -> tuple[list[Example], tuple[str, ...]]:
    """Read what is to be answered.

    Args:
        source: A `.jsonl`, `.csv` or `.parquet` file, a text file with one input a line, or None or "-" to read lines
            from `stdin`.
        stdin: Read where there is no source.
        columns: Field to column of a file with columns, as `load_task`; given, the task's own do not count.
        task: What was learnt; its `columns` and instruction say how its rows were read.

    Returns:
        The inputs, and notes on columns that were guessed.

    Raises:
        UserError: The file cannot be read, there is nothing in it, it is not of these formats, or a line between
            others is empty.
    """
    if source == "-":
        source = None
    suffix = Path(source or "").suffix.lower()
    if source is not None and suffix in SUFFIXES:
        table = read_table(Path(source))
        instruction = task.instruction if task else ""
        table, layout = _layout(table, columns or {}, task.columns if task and not columns else {}, instruction)
        rows = laid_out(table, layout).rows
        examples = each_row(rows, lambda row: row.example(layout.names, "input", labelled=False))
        if task and not task.is_open:
            (made,), _ = trimmed_examples([tuple(examples)])
            examples = list(made)
        return examples, layout.notes
    if suffix in OTHER_TABLES:
        raise UserError(
            f"{source} must be a .jsonl (one object a line), .csv or .parquet file, or a text with one input a line; "
            f"save the rows of the {suffix} file as one of these."
        )
    text = decoded(stdin.read(), "stdin") if source is None else read_text(Path(source))
    return _lines(source or "stdin", text), ()


def under_own_names(values: Mapping[str, Any], task: Task, number: int) -> Mapping[str, Any]:
    """Return one input, given as a mapping, with its fields under their own names.

    Raises:
        UserError: Its messages are not as they must be.
    """
    table = Table("input", (Row("input", number, dict(values)),))
    names = _names(task.columns, table.columns)
    if names is None:
        if not (messages := columns_of_messages(table, {}, labelled=False)):
            return values
        names, table = named({}), as_inputs(table, messages, task.instruction)
    (row,) = table.rows
    return {field: row.values[column] for field, column in names.items() if column in row.values}


def _layout(
    table: Table, columns: Mapping[str, str], learnt: Mapping[str, str], instruction: str
) -> tuple[Table, Layout]:
    if not columns and (names := _names(learnt, table.columns)) is not None:
        return table, Layout(names, learnt)
    if messages := columns_of_messages(table, columns, labelled=False):
        table = as_inputs(table, messages, instruction)
    check_columns(table, columns)
    return table, find_columns(table, columns, required=("input",))


def _names(learnt: Mapping[str, str], present: Sequence[str]) -> dict[str, str] | None:
    """Return the columns of the task's files that are present, if the input is among them; else None."""
    if not learnt or learnt.get("input", "input") not in present:
        return None
    return named({field: column for field, column in learnt.items() if column in present})


def _lines(source: str, text: str) -> list[Example]:
    lines = [line.rstrip("\r") for line in text.rstrip().split("\n")]
    if not text.strip():
        raise UserError(f"{source} must hold at least one input, one a line; it is empty.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{source} line {number} must not be empty, as answers come one a line.")
    if all(map(_is_json_object, lines)):
        raise UserError(
            f"{source} must hold inputs as plain text, one a line, but each line is a JSON object; give the rows as a "
            "file that ends in .jsonl."
        )
    return [Example(line, "", f"input-{i}") for i, line in enumerate(lines, 1)]


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
