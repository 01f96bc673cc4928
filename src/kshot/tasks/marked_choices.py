"""Choices with marks of their own, such as "A. red" or ARC's {"text": […], "label": ["A", …]}: the texts alone stay.

A mark that stays before a choice would be scored as a part of each answer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kshot.core.types import named_choice
from kshot.tasks.answers import answered, lists_choices
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import Row

NAME = re.compile(r"[A-Za-z]|[0-9]{1,2}")
MARKED = re.compile(rf"[(\[]?({NAME.pattern})[.):\]]{{1,2}}\s+(\S.*)", re.DOTALL)
AROUND = "()[].: "


def parted(choices: object) -> tuple[list[Any], list[str]] | None:
    """Return the texts of choices and their marks, or None where they have none.

    Args:
        choices: Texts with marks in order; {"text": […], "label": […]}; a list of {"text": …, "label": …}; or mark to
            text, as {"A": …, "B": …}.
    """
    pairs = _pairs(choices)
    marks = [str(mark) for mark, _ in pairs]
    if len(marks) < 2 or len({*map(str.lower, marks)}) < len(marks) or not all(map(NAME.fullmatch, marks)):
        return None
    return [text for _, text in pairs], marks


def _pairs(choices: object) -> list[tuple[Any, Any]]:
    if isinstance(choices, dict):
        texts, marks = choices.get("text"), choices.get("label")
        if isinstance(texts, list) and isinstance(marks, list):
            return list(zip(marks, texts, strict=True)) if len(marks) == len(texts) else []
        return [(mark, text) for mark, text in choices.items() if text is not None]
    if not isinstance(choices, list):
        return []
    if all(isinstance(choice, dict) and {"text", "label"} <= choice.keys() for choice in choices):
        return [(choice["label"], choice["text"]) for choice in choices]
    found = [MARKED.fullmatch(trimmed(choice)) if isinstance(choice, str) else None for choice in choices]
    pairs = [(mark[1], mark[2]) for mark in found if mark]
    in_order = len(pairs) == len(choices) and pairs[:1] and pairs[0][0] in "Aa01"
    return pairs if in_order and all(name == named_choice(pairs[0][0], i) for i, (name, _) in enumerate(pairs)) else []


def with_bare_choices(row: Row, column: str) -> Row:
    """Return the row with the texts of its choices alone."""
    found = parted(row.values.get(column))
    return replace(row, values={**row.values, column: found[0]}) if found else row


def without_marks(
    splits: Sequence[Sequence[Row]], names: Mapping[str, str], *, settle_outputs: bool, in_input: bool | None
) -> tuple[list[list[Row]], tuple[str, ...]]:
    """Take the marks off choices, and put the text in place of a mark in outputs.

    Args:
        splits: Train and test rows.
        names: Field to column.
        settle_outputs: Whether outputs are choices; else they stay as they are.
        in_input: Whether inputs list the choices, so that an output stays a mark; None to look.

    Returns:
        The rows, and notes on what was changed.
    """
    column, output = names.get("choices", "choices"), names["output"]
    marked = [(row, found) for rows in splits for row in rows if (found := parted(row.values.get(column)))]
    if not marked:
        return [list(rows) for rows in splits], ()
    train = [(row, found) for row in splits[0] if (found := parted(row.values.get(column)))]
    if in_input is None:
        listed = sum(lists_choices(str(row.values.get(names["input"])), marks) for row, (_, marks) in train)
        in_input = listed * 2 > len(train)
    outputs = [(trimmed(str(row.values.get(output))), texts, marks) for row, (texts, marks) in train]
    n_marks = sum(_place(text, marks) is not None for text, _, marks in outputs)
    by_mark = n_marks >= sum(text in texts for text, texts, _ in outputs)
    changed: list[str] = []

    def text_of(value: str | int, texts: list[Any], marks: list[str]) -> Any:
        said = trimmed(str(value))
        whole = MARKED.fullmatch(said)
        if whole and (place := _place(whole[1], marks)) is not None and texts[place] == whole[2]:
            return whole[2]
        place = None if in_input or (said in texts and not by_mark) else _place(said, marks)
        if place is None:
            return value
        changed.append(said)
        return texts[place]

    def bare(row: Row) -> Row:
        found = parted(row.values.get(column))
        if not found:
            return row
        before = row.values.get(output)
        if settle_outputs and isinstance(before, str | int):
            row = answered(row, names, text_of(before, *found))
        return with_bare_choices(row, column)

    made = [list(map(bare, rows)) for rows in splits]
    first, (_, marks) = marked[0]
    n_rows = f"{len(marked)} rows" if len(marked) > 1 else "1 row"
    example = f"'{marks[0]}'"
    if isinstance(choices := first.values[column], list) and isinstance(choices[0], str):
        example += f" in '{choices[0]}'"
    notes = [f"the marks of the choices in the column '{column}', such as {example}, are left out ({n_rows})"]
    if changed:
        notes.append(
            f"the column '{output}' names choices by their marks, such as '{changed[0]}'; it is read as the text of "
            "that choice"
        )
    return made, tuple(notes)


def _place(output: str, marks: Sequence[str]) -> int | None:
    """Return which of the marks an output is, whatever stands around it."""
    bare = output.strip(AROUND).lower()
    return next((i for i, mark in enumerate(marks) if mark.lower() == bare), None)
