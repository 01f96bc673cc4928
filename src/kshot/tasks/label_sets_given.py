"""Outputs that are sets of labels: lists, or texts with something between the labels; brought into one form."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from kshot.core.errors import UserError, did_you_mean
from kshot.core.label_sets import BETWEEN, COMMA, NONE, NOTHING, read, written
from kshot.core.types import LABELLED, Example, Kind, Task
from kshot.tasks.kinds import are_labels
from kshot.tasks.labels import shortened
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import Row, each_row, shown, text_flaw
from kshot.tasks.tables import Table
from kshot.tasks.written_lists import is_written_list, read_list

SEPARATORS = (BETWEEN, ";", ",")  # that are looked for in texts, in this order
MAX_NAMED = 3


def settle_label_sets(
    tables: Sequence[Table],
    column: str,
    *,
    kind: Kind | None,
    labels: Sequence[str],
    separator: str | None,
) -> tuple[list[Table], Kind | None, tuple[str, ...]]:
    """Write outputs that are sets of labels as `kshot.core.label_sets` says.

    Where nobody says the kind, rows whose outputs are lists, or texts that write lists, have such sets if what the
    lists hold repeats as labels do (`kshot.tasks.kinds`), and not all lists hold one text. A label that is twice in a
    list counts once. An empty list is an empty set; where outputs are texts an empty one is.

    Args:
        tables: Train rows first.
        column: That of the outputs.
        kind: What the task is, if that is said.
        labels: The task's, if they are said.
        separator: What stands between labels in a text, if that is said.

    Returns:
        The tables, the kind, and notes on what was guessed and changed; all as it was where outputs are no sets.

    Raises:
        BadRowsError: Rows whose output is no set of labels.
        UserError: No row has a label, and none are said.
    """
    given, notes = [row.values.get(column) for row in tables[0].rows], list[str]()
    if kind is None and are_sets(given, labels):
        kind = "multi_label"
        notes.append(f"the column '{column}' holds lists of labels: kind is multi_label (--kind says another)")
    if kind != "multi_label":
        return list(tables), kind, ()
    texts = [v for v in given if isinstance(v, str) and not _is_empty(v) and not is_written_list(v)]
    between = separator or next((sign for sign in SEPARATORS if any(sign in text for text in texts)), BETWEEN)
    if texts and separator is None:
        which = f"are parted at '{between}'" if any(between in text for text in texts) else "are one label each"
        notes.append(f"the texts in the column '{column}' {which} (`separator` in task.json says where)")
    twice, empty = list[Row](), list[Row]()

    def settled(row: Row) -> Row:
        found = _labels_of(row, column, between)
        if len(set(found)) < len(found):
            twice.append(row)
        if not found:
            empty.append(row)
        return replace(row, values={**row.values, column: written(found, labels)})

    rows = iter(each_row([row for table in tables for row in table.rows], settled))
    made = [[next(rows) for _ in table.rows] for table in tables]
    if not labels and tables[0].rows and all(row.values[column] == NOTHING for row in made[0]):
        raise UserError(
            f"{tables[0].source}: some row must have a label, but the sets in the column '{column}' are all empty; "
            "name the column that holds them, as in --columns output=tags, or all labels, as 'labels' in task.json."
        )
    for found, what in ((twice, "a label twice, which counts once"), (empty, "no label, which is a set of none")):
        if found:
            have = f"{len(found)} rows have" if len(found) > 1 else "1 row has"
            notes.append(f"{have} {what}: {', '.join(_named(found))}")
    return [replace(t, rows=tuple(own)) for t, own in zip(tables, made, strict=True)], kind, tuple(notes)


def are_sets(given: Sequence[Any], labels: Sequence[str] = ()) -> bool:
    """Return whether outputs, of which nobody says what they are, are sets of labels.

    Args:
        given: The outputs; those that are missing say nothing.
        labels: The task's, if they are said.
    """
    given = [read_list(value) if is_written_list(value) else value for value in given if not _is_empty(value)]
    lists = [value for value in given if isinstance(value, list)]
    items = [item for value in lists for item in value]
    are_several = any(len(value) > 1 for value in lists)
    if not are_several or len(lists) < len(given) or not all(isinstance(item, str | int) for item in items):
        return False
    names = [trimmed(str(item)) for item in items]
    return set(names) <= set(labels) if labels else are_labels(Counter(names))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not trimmed(value))


def _named(rows: Sequence[Row]) -> list[str]:
    return [f"{row.source} row {row.number}" for row in rows[:MAX_NAMED]] + ["…"] * (len(rows) > MAX_NAMED)


def _labels_of(row: Row, column: str, between: str) -> list[str]:
    """Return the labels of a row, as texts without white space around them."""
    value = row.values.get(column)
    if column not in row.values:
        row.fail(f"the column '{column}' is missing; add it, or leave the row out.")
    if isinstance(value, str):
        value = _listed(value, between)
    if not isinstance(value, list):
        row.fail(
            f'\'{column}\' must be a list of labels; got {shown(value)}; write it as ["…", "…"], and as [] where none '
            "is right."
        )
    return [_label(row, column, item, i) for i, item in enumerate(value, 1)]


def _listed(text: str, between: str) -> list[Any]:
    """Return what a text lists: a list that it writes, or labels with something between them."""
    if is_written_list(text) and (found := read_list(text)) is not None:
        return found
    return [part for part in text.split(between) if trimmed(part)]


def _label(row: Row, column: str, item: Any, number: int) -> str:
    what = f"'{column}' item {number}"
    if isinstance(item, list | dict):
        row.fail(
            f"{what} must be a label; got {shown(item)}; labels inside labels are not known here: write all that are "
            'right into one list, such as ["sport", "sport/tennis"].'
        )
    if isinstance(item, int):
        item = json.dumps(item)
    if not isinstance(item, str):
        row.fail(f"{what} must be a label; got {shown(item)}; write it as a text.")
    label = trimmed(item)
    if not label:
        row.fail(f"{what} must not be empty; name the label, or leave it out.")
    if flaw := label_flaw(label):
        row.fail(f"{what}: {flaw}")
    return label


def label_flaw(label: str) -> str | None:
    """Return why a label cannot be one of several, as a sentence with its remedy; None: it can."""
    if flaw := text_flaw(label):
        return f"a label must be text, but {flaw}."
    if BETWEEN in label:
        return (
            f"a label must not hold '{BETWEEN}', which stands between labels where a set of them is written; got "
            f"{shortened(label)}; write it with another sign, such as '/'."
        )
    if label == NOTHING:
        return f"a label must not be '{NOTHING}', which says that none is right; leave it out, or rename it."
    return None


def check_label_set(output: str, task: Task, fail: Any, *, remedy: str = "correct it or list it in task.json") -> None:
    """Refuse an output of a multi-label task that is no set of its labels.

    Args:
        output: As `kshot.core.label_sets` writes it.
        task: Its labels.
        fail: Raises what is said of the output.
        remedy: What to do about a label that is not known.
    """
    if strange := [label for label in read(output) if label not in task.labels]:
        fail(f"'{strange[0]}' is not among the task's labels; {remedy}.{did_you_mean(strange[0], task.labels)}")
    if written(read(output), task.labels) != output:
        fail(
            f"a set of labels must be written in the task's order, each once, as '{written(read(output), task.labels)}'"
            f"; got '{output}'."
        )


def problems_of_sets(train: Iterable[Example], labels: Sequence[str]) -> list[str]:
    """Return what is odd about the sets of a task's train rows, a sentence each."""
    sets = [read(e.output) for e in train]
    seen = {label for own in sets for label in own}
    found = []
    if all(len(own) == 1 for own in sets):
        found.append("All rows of train have one label each: --kind classification would do, and choose among them.")
    if n := sum(not own for own in sets):
        rows = f"{n} rows of train have" if n > 1 else "1 row of train has"
        found.append(f"{rows} no label; that is allowed, and says that none is right.")
    if any(label.lower() == NONE for label in labels):
        found.append(
            f"The label '{NONE}' is what prompts say where no label is right; rename it, or write an empty set instead."
        )
    if (parted := next((label for label in labels if COMMA.strip() in label), None)) is not None:
        found.append(f"The label '{parted}' has a comma, as which prompts part labels; rename it, as with '/'.")
    everywhere = [label for label in labels if all(label in own for own in sets)]
    found += [f"All rows of train have the label '{label}'." for label in everywhere]
    return found + [f"No row of train has the label '{label}'." for label in labels if label not in seen]


def labels_seen(kind: Kind, train: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels of train rows, sorted; none for kinds without a closed set of them."""
    if kind not in LABELLED:
        return ()
    sets = (read(e.output) if kind == "multi_label" else (e.output,) for e in train)
    return tuple(sorted({label for own in sets for label in own}))
