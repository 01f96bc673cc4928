"""Which column holds which field: named by the user, by its own name, or guessed; and what was guessed is said.

Guessed are only fields that no column names, and only where the input or the output is among them: a file with
columns `input` and `output` means what it says, and so does a user who names both.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from kshot.core.errors import UserError, did_you_mean
from kshot.tasks.label_sets_given import are_sets
from kshot.tasks.marked_choices import parted
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import FIELDS, LISTS, REQUIRED, Row, each_row, shown
from kshot.tasks.tables import Table
from kshot.tasks.written_lists import is_written_list, read_list

COMMON: Mapping[str, tuple[str, ...]] = {  # in lower case; columns are compared without regard to it
    "input": ("input", "text", "sentence", "review", "question", "query", "instruction", "prompt", "problem", "ctx"),
    "output": ("output", "label", "answer", "response", "completion", "target", "sentiment", "answerkey", "answer_key"),
    "context": ("context", "passage"),
    "choices": ("choices", "options", "endings"),
}
# Names of the output that are its second meaning: looked at where there is none of the first.
LESS_COMMON_OUTPUT = ("labels", "class", "category", "tag")
OF_SETS = "labels"  # the one of these that can hold sets of labels, too
# Halves of an input. Which one is the input and which the context is for the user to say.
HALVES = ("premise", "hypothesis", "sentence1", "sentence2", "question1", "question2", "text1", "text2")
ALPACA = {"input": "instruction", "context": "input"}
MAX_NAME = 60  # characters, and words: a longer header is a sentence
MAX_WORDS = 5
FLAGS = ("0", "1", "0.0", "1.0", "true", "false")  # what a column holds that says of one label whether it is right
MAX_TOLD = 5


@dataclass(frozen=True)
class Layout:
    """Which column holds which field.

    Attributes:
        names: Field to column; columns need not be there.
        guessed: The part of `names` that was guessed.
        answers: The column of references, a list or SQuAD's {"text": […]}, whose first text is the output where no
            column holds it.
        notes: What was guessed, for the user to read.
    """

    names: Mapping[str, str]
    guessed: Mapping[str, str]
    answers: str | None = None
    notes: tuple[str, ...] = ()


def named(columns: Mapping[str, str]) -> dict[str, str]:
    """Return each field's column without a guess; one that the user gave to a field does not fill its namesake too.

    Raises:
        UserError: `columns` maps something that is no field.
    """
    for name in columns:
        if name not in FIELDS:
            raise UserError(f"--columns must map fields of an example; got '{name}'.{did_you_mean(name, FIELDS)}")
    return {f: f for f in FIELDS if f in REQUIRED or f not in columns.values()} | dict(columns)


def find_columns(table: Table, columns: Mapping[str, str], *, required: Sequence[str] = REQUIRED) -> Layout:
    """Return which column holds which field.

    Args:
        table: The train rows.
        columns: Field to column, as the user named them.
        required: The fields that each row must have: rows to be answered need no output.

    Raises:
        UserError: A field that is needed may stand in more than one column, or in none, and it can be told why.
    """
    names = named(columns)
    free = [c for c in table.columns if c not in columns.values()]
    missing = [f for f in required if f not in columns and f not in free]
    if {*ALPACA.values()} <= {*free} and not columns.keys() & ALPACA.keys() and "context" not in free:
        output = columns.get("output")
        if output is None and "output" in required:
            output = "output" if "output" in free else _guess(table, "output", free)
        if output or "output" not in required:
            guessed = ALPACA | ({"output": output} if output and "output" not in columns else {})
            return Layout(names | guessed, guessed, notes=(_said(guessed),))
    guessed = {f: column for f in missing if (column := _guess(table, f, free))}
    answers = _squad(table, free) if "output" in required and missing and "references" not in columns else None
    if missing:
        for field in ("context", "choices"):
            column = None if field in columns or field in free else _guess(table, field, free)
            if column and all(_fits(row.values.get(column), field, table.cells) for row in table.rows):
                guessed[field] = column
    if answers:
        guessed["references"] = answers
    names |= guessed
    lacking = [f for f in missing if f not in guessed]
    if lacking and not (lacking == ["output"] and names.get("references") in table.columns):
        _say_why(table, lacking[0])
        _say_how(table, lacking, [c for c in table.columns if c not in names.values()])
    notes = [_said(guessed)] if guessed else []
    if "output" in missing and "output" not in guessed and names.get("references") in table.columns:
        answers = names["references"]
        notes.append(f"output is the first text of the column '{answers}'")
    return Layout(names, guessed, answers, tuple(notes))


def columns_as_learnt(table: Table, learnt: Mapping[str, str]) -> Layout | None:
    """Return the layout of labelled rows like those that were learnt; None without the column that held the input.

    Args:
        table: The rows.
        learnt: Field to column, as in `Task.columns`; fields whose column is not here are found as in any other file.

    Raises:
        UserError: As `find_columns`.
    """
    if not learnt or learnt.get("input", "input") not in table.columns:
        return None
    present = {field: column for field, column in learnt.items() if column in table.columns}
    found = find_columns(table, present)
    answers = found.answers or _squad(table, present.values())
    return replace(found, guessed={**found.guessed, **present}, answers=answers)


def laid_out(table: Table, layout: Layout, *, labelled: bool = True) -> Table:
    """Return the table with its lists as lists; empty cells are left out where they can only mean that.

    An output that is a list of one text is that text, if rows must be `labelled`; otherwise outputs are not looked at.

    Raises:
        BadRowsError: Rows whose answers are not as in SQuAD, that have several outputs, or whose cells are no lists.
    """
    output = layout.names["output"]
    lists = _columns_of_lists(table, layout)  # once, as it looks at all rows

    def read(row: Row) -> Row:
        laid = _laid_out(row, table, layout, lists)
        return _with_one_output(laid, output, layout.names.get("references")) if labelled else laid

    rows = tuple(each_row(table.rows, read))
    notes = [
        f'cells of \'{column}\' that are written as lists, such as ["a", "b"], are read as these'
        for column in lists
        if any(is_written_list(row.values.get(column)) for row in table.rows)
    ]
    if labelled and any(isinstance(row.values.get(output), list) for row in table.rows):
        notes.append(f"the column '{output}' holds lists of one text, which is the output")
    return replace(table, rows=rows, notes=(*table.notes, *notes))


def _laid_out(row: Row, table: Table, layout: Layout, lists: Sequence[str]) -> Row:
    names = layout.names
    can_be_empty = set(row.values) if table.fixed else set(names.values()) if layout.guessed else set()
    can_be_empty -= {names[field] for field in REQUIRED}
    values: dict[str, Any] = {
        c: v for c, v in row.values.items() if c not in can_be_empty or v == [] or not is_missing(v)
    }
    for column in lists:
        if column in values:
            values[column] = _list_of_cell(row, column, values[column].strip())
    if layout.answers is not None:
        texts = values.get(layout.answers)
        texts = texts.get("text") if isinstance(texts, dict) else texts
        if not isinstance(texts, list) or not texts:
            row.fail(f"'{layout.answers}' must hold at least one text; give it one, or leave the row out.")
        values[layout.answers] = [text for i, text in enumerate(texts) if text not in texts[:i]]
        if names["output"] not in values and "output" not in layout.guessed:
            values[names["output"]] = texts[0]
    return replace(row, values=values)


def _columns_of_lists(table: Table, layout: Layout) -> list[str]:
    """Return the columns whose cells are text and stand for lists."""
    return [layout.names[field] for field in LISTS if table.cells and layout.names.get(field) in table.columns]


def _list_of_cell(row: Row, column: str, cell: str) -> list[Any]:
    """Return the parts of a cell between bars; or the list that it is, as JSON or Python write it."""
    if not is_written_list(cell):
        return [part.strip() for part in cell.split("|")]
    found = read_list(cell)
    if found is None:
        row.fail(
            f"'{column}' must be a list, but cannot be read as one; got {shown(cell)}; write it as a|b, or as JSON: "
            '["a", "b"].'
        )
    return found


def _with_one_output(row: Row, column: str, references: str | None) -> Row:
    outputs = row.values.get(column)
    if not isinstance(outputs, list):
        return row
    if not outputs and is_missing(row.values.get(references or "")):
        row.fail(
            f"'{column}' must hold one text, but its list is empty; fill it in, or leave the row out; if any number of "
            "labels can be right, say --kind multi_label."
        )
    if len(outputs) > 1:
        row.fail(
            f"'{column}' must hold one text, as a row has one output; got {shown(outputs)}; if each of them is right, "
            f"say --columns references={column}; if they are labels, say --kind multi_label; if all of them are "
            "needed, join them into one text, such as a, b."
        )
    return replace(row, values={**row.values, column: outputs[0] if outputs else None})


def _say_why(table: Table, field: str) -> None:
    """Refuse a table without a column for `field` if it has no header, or holds objects with such columns."""
    if table.cells and (len(table.columns) == 1 or any(_is_no_name(table, column) for column in table.columns)):
        raise UserError(
            f"{table.source} must begin with a line that names the columns, but its first line looks like an example "
            f"({', '.join(table.columns)[:MAX_NAME]}); put a line such as text,label above it; if it does name them, "
            "say what they hold with --columns input=…,output=…"
        )
    flags = [c for c in table.columns if all(str(row.values.get(c)).strip().lower() in FLAGS for row in table.rows)]
    if field == "output" and len(flags) > 1:
        raise UserError(
            f"{table.source}: {', '.join(flags[:MAX_TOLD])}{', …' if flags[MAX_TOLD:] else ''} hold zeros and ones, as "
            "where each label has a column of its own; write the names of those that are right as a list into one "
            f"column, 'output'; or name one of them, as in --columns output={shlex.quote(flags[0])}."
        )
    for column in table.columns:
        values = [row.values.get(column) for row in table.rows]
        if all(isinstance(value, dict) and any(c.lower() in COMMON[field] for c in value) for value in values):
            raise UserError(
                f"{table.source}: the {field} must stand in a column of its own, but it stands inside the objects of "
                f"'{column}'; write these as the rows, as with: jq -c .{column}"
            )


def _say_how(table: Table, lacking: Sequence[str], unused: Sequence[str]) -> NoReturn:
    """Refuse a table without columns for the fields that are `lacking`; the remedy shows it with likely ones."""
    what = " and ".join(f"the {field}" for field in lacking)
    has, left, shown_as = ", ".join(table.columns) or "no columns", list(unused), []
    for field in lacking:
        cells = {c: [str(row.values.get(c)) for row in table.rows] for c in left}
        if left and field == "input":
            likely = max(left, key=lambda column: sum(map(len, cells[column])))
        elif left:  # labels repeat, and they often come last
            likely = min(reversed(left), key=lambda column: (len(set(cells[column])) == 1, len(set(cells[column]))))
        else:
            raise UserError(f"{table.source}: no column holds {what}; it has {has}; add a column '{field}'.")
        left.remove(likely)
        shown_as.append(f"{field}={likely}")
    them, how = "them" if len(lacking) > 1 else "it", shlex.quote(",".join(shown_as))
    raise UserError(f"{table.source}: no column holds {what}; it has {has}; name {them}, as in --columns {how}.")


def _is_no_name(table: Table, column: str) -> bool:
    return (
        len(column) > MAX_NAME
        or len(column.split()) > MAX_WORDS
        or column.replace(".", "", 1).isdecimal()
        or any(column == str(row.values.get(column)).strip() for row in table.rows)
    )


def _guess(table: Table, field: str, free: Sequence[str]) -> str | None:
    """Return the one column with a common name of `field`, or None.

    Raises:
        UserError: There are several.
    """
    found = [c for c in free if c.strip().lower() in COMMON[field]]
    if field == "output" and not found:
        less_common = [c for c in free if c.strip().lower() in LESS_COMMON_OUTPUT]
        found = [c for c in less_common if _holds_one_text(table, c) or _holds_sets(table, c)]
    halves = [c for c in free if c.lower() in HALVES] if field == "input" else []
    if field == "output" and "label" in map(str.lower, found):
        texts = [c for c in free if c.lower() == "label_text"]
        if len(texts) == 1:
            return texts[0]  # SetFit's: the names of what `label` numbers
    parts = [*halves, *found]
    if len(found) < 2 and not halves:
        return found[0] if found else None
    how = f"input={parts[1]},context={parts[0]}" if halves and len(parts) > 1 else f"{field}={parts[0]}"
    raise UserError(
        f"{table.source}: it is not clear which column holds the {field} ({', '.join(parts)}); name it, as in "
        f"--columns {how}. The columns are {', '.join(table.columns)}."
    )


def _holds_one_text(table: Table, column: str) -> bool:
    values = [row.values.get(column) for row in table.rows]
    return not any(isinstance(v, dict) or (isinstance(v, list) and len(v) > 1) for v in values)


def _holds_sets(table: Table, column: str) -> bool:
    return column.strip().lower() == OF_SETS and are_sets([row.values.get(column) for row in table.rows])


def _squad(table: Table, free: Collection[str]) -> str | None:
    if "references" in free or "answers" not in free:
        return None
    values = [row.values.get("answers") for row in table.rows]
    return "answers" if all(isinstance(v, list) or (isinstance(v, dict) and "text" in v) for v in values) else None


def _fits(value: object, field: str, cells: bool) -> bool:
    if field == "choices" and not cells:
        return value is None or isinstance(value, list) or parted(value) is not None
    return value is None or isinstance(value, str)


def _said(guessed: Mapping[str, str]) -> str:
    (first, column), *others = guessed.items()
    rest = "".join(f", {field} from '{other}'" for field, other in others)
    return f"{first} is read from the column '{column}'{rest} (guessed; --columns overrides)"


def check_test_columns(test: Table, layout: Layout) -> None:
    """Refuse test rows that lack a column of train, if no row has it.

    Raises:
        UserError: With the columns that there are.
    """
    for field in REQUIRED:
        column = layout.names[field]
        if test.rows and column not in test.columns and not (field == "output" and layout.answers):
            has = ", ".join(test.columns) or "no columns"
            raise UserError(
                f"{test.source}: no column is called '{column}', which holds the {field} in train; it has {has}; "
                "rename the column as in train."
            )


def check_columns(table: Table, columns: Mapping[str, str]) -> None:
    """Refuse a mapping to a column that no row has; an optional field may be absent from some.

    Raises:
        UserError: With the columns that there are.
    """
    for field, column in columns.items():
        if column not in table.columns:
            has = ", ".join(sorted(table.columns))
            raise UserError(
                f"{table.source}: the column '{column}' for '{field}' is missing, the file has {has}; name the "
                "columns, as in --columns input=question,output=answer."
            )
