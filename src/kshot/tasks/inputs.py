"""Inputs to be answered: rows without outputs."""

from pathlib import Path
from typing import BinaryIO

from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.tasks.rows import decoded, read_rows, read_text


def read_inputs(source: str | None, stdin: BinaryIO) -> list[Example]:
    """Read what is to be answered.

    Args:
        source: A `.jsonl` or `.csv` file with the column `input` (or `text`), any other file with one input a line,
            or None to read lines from `stdin`.
        stdin: Read where there is no source.

    Raises:
        UserError: The file cannot be read, or there is nothing in it.
    """
    if source is not None and Path(source).suffix.lower() in (".jsonl", ".csv"):
        rows = read_rows(Path(source), {})
        return [row.example("input", labelled=False) for row in rows]
    text = decoded(stdin.read(), "stdin") if source is None else read_text(Path(source))
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{source or 'stdin'} must hold at least one input, one a line; it is empty.")
    return [Example(line, "", f"input-{i}") for i, line in enumerate(lines, 1)]
