"""Columns that no field holds: texts among them are named in a note, and options of a question are refused.

A mapping or a guess that leaves out half of an input, or the options of a question, would be seen in no other way: the
task loads, and measures something else.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from kshot.core.errors import UserError
from kshot.tasks.marked_choices import AROUND
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import Row
from kshot.tasks.tables import Table

MAX_NAMED = 8
# Options in columns of their own: A, B, …; option1, option_2, choiceA, sol1, ending0, …
LETTER = re.compile(r"()([A-Ea-e])")
MIN_LETTERS = 3  # two columns A and B may as well be two texts that are compared
NUMBERED = re.compile(r"(option|opt|choice|sol|solution|ending|answer|ans|alternative)[ _]?([0-9]|[A-Ea-e])", re.I)


def unused_note(table: Table, names: Mapping[str, str], among: Container[str] | None = None) -> tuple[str, ...]:
    """Return a note that names the columns of texts that no field holds, if there are any, or any `among` some."""
    free = [c for c in table.columns if c not in names.values() and (among is None or c in among)]
    unused = [c for c in free if _is_text(table.rows, c)]
    more = ", …" if len(unused) > MAX_NAMED else ""
    return (f"not used: {', '.join(unused[:MAX_NAMED])}{more}",) if unused else ()


def refuse_options(table: Table, names: Mapping[str, str]) -> None:
    """Refuse rows whose options stand in columns of their own, if each output looks like one of them.

    Raises:
        UserError: With the columns, and how to write them.
    """
    if names.get("choices") in table.columns:
        return
    rows = [(row.values, str(row.values.get(names["output"]))) for row in table.rows]
    free = [c for c in table.columns if c not in names.values()]
    if options := option_columns(free, rows):
        raise UserError(
            f"{table.source}: the columns {', '.join(options)} look like the options of a question, but no field holds "
            'them; put them into one list, such as "choices": ["…", "…"] (in CSV a|b), with the text of the right one '
            "as output."
        )
    if options := option_columns(free, rows, by_text=True):
        raise UserError(
            f"{table.source}: the columns {', '.join(options)} look like the options of a question, but no field holds "
            'them; put them into one list, such as "choices": ["…", "…"] (in CSV a|b); or say what else the rows are, '
            "such as --kind classification."
        )


def option_columns(
    columns: Iterable[str], rows: Sequence[tuple[Mapping[str, object], str]], *, by_text: bool = False
) -> list[str]:
    """Return columns that look like the options of a question, if each output is one of them; else an empty list.

    Args:
        columns: Those that no field holds.
        rows: The values of a row, and its output: the name, the number (from 0 or 1) or the letter of an option.
        by_text: An output may also be the text of an option.
    """
    parts = [(m[1].lower(), c) for c in columns if (m := LETTER.fullmatch(c) or NUMBERED.fullmatch(c))]
    for stem, group in groupby(sorted(parts), key=lambda part: part[0]):
        options = [column for _, column in group]
        letters = [chr(ord("a") + i) for i in range(len(options))]
        places = {*map(str.lower, options), *letters, *map(str, range(len(options) + 1))}
        if len(options) >= (2 if stem else MIN_LETTERS) and all(
            output.strip(AROUND).lower() in places
            or (by_text and output.strip() in (values.get(option) for option in options))
            for values, output in rows
        ):
            return options
    return []


def _is_text(rows: Sequence[Row], column: str) -> bool:
    texts = [leaf for row in rows for leaf in _leaves(row.values.get(column)) if not is_missing(leaf)]
    return bool(texts) and all(isinstance(t, str) for t in texts) and not all(map(_is_number, texts))


def _leaves(value: object) -> Iterator[object]:
    if not isinstance(value, list):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _is_number(text: object) -> bool:
    return str(text).strip().lstrip("-").replace(".", "", 1).isdecimal()
