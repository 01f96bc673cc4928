"""Inputs to be answered: rows without outputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.tasks.columns import Layout, check_columns, laid_out, named
from kshot.tasks.tables import SUFFIXES, decoded, read_table, read_text


def read_inputs(source: str | None, stdin: BinaryIO, columns: Mapping[str, str] | None = None) -> list[Example]:
    """Read what is to be answered.

    Args:
        source: A `.jsonl`, `.csv` or `.parquet` file with the column `input` (or `text`; nothing else is guessed),
            any other file with one input a line, or None or "-" to read lines from `stdin`.
        stdin: Read where there is no source.
        columns: Field to column of a file with columns, as `load_task`.

    Raises:
        UserError: The file cannot be read, there is nothing in it, or a line between others is empty.
    """
    if source == "-":
        source = None
    if source is not None and Path(source).suffix.lower() in SUFFIXES:
        names = named(columns or {})
        table = read_table(Path(source))
        check_columns(table, columns or {})
        if names["input"] == "input" and "input" not in table.columns and "text" in table.columns:
            names["input"] = "text"
        rows = laid_out(table, Layout(names, {})).rows
        return [row.example(names, "input", labelled=False) for row in rows]
    text = decoded(stdin.read(), "stdin") if source is None else read_text(Path(source))
    lines = [line.rstrip("\r") for line in text.rstrip().split("\n")]
    if not text.strip():
        raise UserError(f"{source or 'stdin'} must hold at least one input, one a line; it is empty.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{source or 'stdin'} line {number} must not be empty, as answers come one a line.")
    return [Example(line, "", f"input-{i}") for i, line in enumerate(lines, 1)]
