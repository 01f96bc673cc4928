"""Inputs to be answered: rows without outputs, read as the rows of the task were.

A file, or a mapping in Python, is read with the columns of the task's own files if it has the column that held the
input there; else with the fields' own names if it has `input`. Columns of another file are guessed as for a task.
Conversations end with the user's message, the input; an answer after it is not read.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kshot.core.errors import InvalidInputError, UserError
from kshot.core.given_files import limited
from kshot.core.paths import at_home
from kshot.core.seeding import digest
from kshot.core.types import Example, Task
from kshot.tasks.answers import check_choices
from kshot.tasks.bad_rows import without_bad_rows
from kshot.tasks.columns import COMMON, Layout, check_columns, find_columns, laid_out, named
from kshot.tasks.containers import as_objects, checked_text
from kshot.tasks.conversations import as_inputs, columns_of_messages
from kshot.tasks.csv_file import SEPARATORS
from kshot.tasks.instruction_data import with_what_was_said
from kshot.tasks.labels import trimmed_examples
from kshot.tasks.marked_choices import with_bare_choices
from kshot.tasks.missing import is_missing
from kshot.tasks.packed import looks_packed, unpacked
from kshot.tasks.rows import BadRow, BadRowsError, Row, each_row, text_flaw
from kshot.tasks.tables import READ_SUFFIXES, REMEDIES, SUFFIXES, Table, read_table, rows_suffix
from kshot.tasks.text_file import MOST_BYTES, cannot_be_read, decoded, lines_of, read_text

ASKED = ("input", "id", "context", "choices")
MAX_TOLD = 20
_PLACE = re.compile(r"input-\d+")  # the id of a row or a line that brings none


def read_inputs(
    source: str | None,
    stdin: BinaryIO,
    columns: Mapping[str, str] | None = None,
    *,
    task: Task | None = None,
    bad: list[BadRow] | None = None,
) -> tuple[list[Example], tuple[str, ...]]:
    """Read what is to be answered.

    Args:
        source: A file of rows, as `read_table` reads them, a text file with one input a line, or None or "-" to read
            lines from `stdin`. Texts may be packed with gzip: files by their name, stdin by its first bytes.
        stdin: Read where there is no source.
        columns: Field to column of a file with columns, as `load_task`; given, the task's own do not count.
        task: What was learnt; its `columns` and instruction say how its rows were read.
        bad: Rows of a file that cannot be used are added to it, and left out; without it they are refused.

    Returns:
        The inputs, and notes on columns that were guessed.

    Raises:
        UserError: The file cannot be read, there is nothing in it, it is not of these formats, or a line between
            others is empty; or columns are named of a text, or its lines are to be left out.
    """
    source = None if source in (None, "-") else at_home(source)
    suffix = rows_suffix(Path(source or ""))
    if source is not None and suffix in READ_SUFFIXES:
        unread = list[BadRow]()
        table = read_table(Path(source), unread)
        try:
            examples, notes, found = inputs_of_rows(table, unread, columns, task=task, skip=bad is not None)
        except BadRowsError as error:  # `kshot validate` reads tasks, not inputs
            raise BadRowsError(error.rows, error.advice, most=MAX_TOLD, rest="correct them too") from None
        if bad is not None:
            bad += found
        return examples, notes
    if remedy := REMEDIES.get(suffix):
        raise UserError(
            f"{source} must be a file of rows that ends in {', '.join(SUFFIXES)}, or a text with one input a line; "
            f"{remedy}."
        )
    for flag, is_given in (("--columns", columns), ("--skip-bad-rows", bad is not None)):
        if is_given:
            raise UserError(
                f"{flag} is for files of rows, which end in {', '.join(SUFFIXES)}; {source or 'stdin'} is read as "
                f"a text with one input a line; leave {flag} out, or give the inputs as such a file."
            )
    text = _text_of_stdin(stdin) if source is None else read_text(Path(source))
    return inputs_of_lines(source or "stdin", text, task), ()


def inputs_of_rows(
    table: Table, unread: Sequence[BadRow], columns: Mapping[str, str] | None = None, *, task: Task | None, skip: bool
) -> tuple[list[Example], tuple[str, ...], list[BadRow]]:
    """Return the rows of a table as inputs, notes on how they were read, and the rows that were left out.

    Args:
        table: The rows.
        unread: Rows of the same file that could not be read.
        columns: As in `read_inputs`, as is `task`.
        task: What was learnt.
        skip: Leave out rows that cannot be used, at most half of them.

    Raises:
        BadRowsError: With all rows that cannot be used, unless they are skipped; or they are too many.
        UserError: The columns are not as they must be.
    """
    read = partial(_inputs, columns=columns or {}, task=task)
    (examples, notes), found = without_bad_rows(read, [table], unread, skip=skip)
    return examples, notes, found


def _text_of_stdin(stdin: BinaryIO) -> str:
    """Return what comes from stdin, which has no name to say that it is packed: its first bytes do."""
    try:
        data = limited(stdin, MOST_BYTES, "stdin")
        return decoded(unpacked(data, MOST_BYTES, "stdin") if looks_packed(data) else data, "stdin")
    except OSError as error:
        raise cannot_be_read("stdin", error) from None


def _inputs(
    tables: list[Table], *, columns: Mapping[str, str], task: Task | None
) -> tuple[list[Example], tuple[str, ...]]:
    """Return the rows of the only table as inputs, and notes."""
    learnt, instruction = (task.columns if not columns else {}, task.instruction) if task else ({}, "")
    table, layout = _layout(tables[0], columns, learnt, instruction)
    rows = laid_out(table, layout, labelled=False).rows
    return each_row(rows, lambda row: _example(row, layout.names, task)), (*table.notes, *layout.notes)


def input_of(given: "str | Mapping[str, Any] | Example", task: Task, number: int) -> Example:
    """Return one input, given in Python as a text, a mapping or an example; blank fields count as left out.

    What brings no id is named by what it says: what is drawn for it depends on that, and not on its place.

    Raises:
        InvalidInputError: It has no input, or a field is not as it must be.
    """
    try:
        if not isinstance(given, Example):
            values = under_own_names(given, task, number) if isinstance(given, Mapping) else {"input": given}
            example = _from_values(values, task, number)
            if not is_missing(values.get("id")):
                return example
            return named_by_text(example)
        asked = _from_values({field: getattr(given, field) for field in ASKED}, task, number)
    except InvalidInputError:
        raise
    except UserError as error:
        raise InvalidInputError(str(error)) from None
    return replace(given, **{field: getattr(asked, field) for field in ASKED})


def named_anywhere(example: Example) -> Example:
    """Return an input as all doors name it: by its id, or by what it says where that is only its place in a file."""
    return named_by_text(example) if _PLACE.fullmatch(example.id) else example


def named_by_text(example: Example) -> Example:
    """Return an input whose id is what it says, so that what is drawn for it does not depend on its place."""
    return replace(example, id=digest(example.input, example.context, example.choices)[:16])


def _from_values(values: Mapping[str, Any], task: Task, number: int) -> Example:
    if "input" not in values:
        raise InvalidInputError(
            f"Each input that is a mapping must have the key 'input'; number {number} has "
            f"{', '.join(map(str, values)) or 'no keys'}. Rename the one that holds the text, or give the text alone."
        )
    text = checked_text(values["input"], "The inputs", number)
    given = {field: _as_plain(values.get(field)) for field in ASKED} | {"input": text}
    if task.kind == "multiple_choice" and is_missing(given["choices"]):
        raise InvalidInputError(
            f"Each input of a multiple-choice task must bring its choices; number {number} has none. Give it as "
            '{"input": text, "choices": [text, …]}.'
        )
    return _example(Row("The inputs,", number, given), {field: field for field in ASKED}, task)


def _as_plain(value: Any) -> Any:
    """Return a value as files hold it: a list for a tuple, an array or a series, a number for one of NumPy's."""
    if isinstance(value, np.generic):
        return value.item()
    value = as_objects(value).tolist() if hasattr(value, "__array__") else value
    return list(value) if isinstance(value, tuple) else value


def _example(row: Row, names: Mapping[str, str], task: Task | None) -> Example:
    """Return the one example of a row to be answered; optional fields that hold nothing count as left out.

    Raises:
        BadRowsError: A field is not as it must be, or the choices do not make different answers.
    """
    values = {column: v for column, v in row.values.items() if column == names["input"] or not is_missing(v)}
    bare = with_bare_choices(replace(row, values=values), names.get("choices", "choices"))
    example = bare.example(names, "input", labelled=False)
    if task is None or task.is_open:
        return example
    ((example,),), _ = trimmed_examples([(example,)])
    check_choices(example, task, row.fail)
    return example


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
    (row,) = _with_what_was_said(table, names, task.instruction).rows
    return {field: row.values[column] for field, column in names.items() if column in row.values}


def _layout(
    table: Table, columns: Mapping[str, str], learnt: Mapping[str, str], instruction: str
) -> tuple[Table, Layout]:
    if not columns and (names := _names(learnt, table.columns)) is not None:
        return _with_what_was_said(table, names, instruction), Layout(names, learnt)
    if messages := columns_of_messages(table, columns, labelled=False):
        table = as_inputs(table, messages, instruction)
    check_columns(table, columns)
    layout = find_columns(table, columns, required=("input",))
    return _with_what_was_said(table, layout.names, instruction), layout


def _with_what_was_said(table: Table, names: Mapping[str, str], instruction: str) -> Table:
    (table,), _, notes = with_what_was_said([table], names, instruction)
    return replace(table, notes=(*table.notes, *notes))


def _names(learnt: Mapping[str, str], present: Sequence[str]) -> dict[str, str] | None:
    """Return the columns of the task's files that are present, if the input is among them; else None."""
    if not learnt or learnt.get("input", "input") not in present:
        return None
    return named({field: column for field, column in learnt.items() if column in present})


def inputs_of_lines(source: str, text: str, task: Task | None, what: str = "answers") -> list[Example]:
    """Return a text's lines as inputs.

    Args:
        source: What messages call it.
        text: An input a line.
        task: Whose columns a first line may name by mistake.
        what: What comes one a line, so that no line may be empty.

    Raises:
        UserError: It holds nothing, an empty line between others, or rows of another format.
    """
    if is_missing(text):
        raise UserError(f"{source} must hold at least one input, but it is empty; write one a line.")
    lines = lines_of(text.rstrip())
    for number, line in enumerate(lines, 1):
        if is_missing(line):
            raise UserError(f"{source} line {number} must not be empty, as {what} come one a line; leave it out.")
        if flaw := text_flaw(line):
            raise UserError(f"{source} line {number} must be text, but {flaw}.")
    if all(map(_is_json_object, lines)) or _is_json_object(text):
        raise UserError(
            f"{source} must hold inputs as plain text, one a line, but it holds JSON objects; give the rows as a file "
            "that ends in .jsonl."
        )
    columns = map(str.lower, task.columns.values() if task else ())
    known = {*COMMON["input"], *COMMON["output"], *columns}
    for separator in SEPARATORS:
        cells = [cell.strip(' "').lower() for cell in lines[0].split(separator)]
        if len(cells) > 1 and known.issuperset(cells):
            raise UserError(
                f"{source} must hold inputs as plain text, one a line, but its first line names columns ({lines[0]}); "
                "give the rows as a file that ends in .csv."
            )
    return [Example(line, "", f"input-{i}") for i, line in enumerate(lines, 1)]


def _is_json_object(text: str) -> bool:
    """Return whether a text is a JSON object, or a list of them."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(item, dict) for item in values)
