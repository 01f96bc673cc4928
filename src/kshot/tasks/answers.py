"""Outputs that stand for something else: numbers of classes, places among the choices, a number after a rationale."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from kshot.core.errors import did_you_mean
from kshot.core.types import Example, Task, named_choice
from kshot.tasks.kinds import NUMBER
from kshot.tasks.label_sets_given import check_label_set
from kshot.tasks.missing import is_missing, trimmed
from kshot.tasks.rows import Row, each_row, shown

MARK = re.compile(r"(?P<before>[(\[]?)(?P<name>[A-Za-z]|[0-9]{1,2})(?P<after>[.):\]]{0,2})")
# How an output may say which of the choices it is: the place by what stands in its mark, where it is a number or not.
PLACES: Mapping[str, Callable[[str], int | None]] = {
    "the number of the choice, counted from 0": lambda name: int(name) if name.isdecimal() else None,
    "the number of the choice, counted from 1": lambda name: int(name) - 1 if name.isdecimal() else None,
    "the letter of the choice": lambda name: None if name.isdecimal() else ord(name.upper()) - ord("A"),
}
FROM_1, LETTERS = "the number of the choice, counted from 1", "the letter of the choice"
NEARLY_ALL = 0.9  # of train rows say their choice in one way, so that the others are slips
FINAL = re.compile(r"(?P<rationale>.*)\n?####[ \t]*(?P<answer>[^\n]+?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Chosen:
    """Rows whose outputs say their choice in one way.

    Attributes:
        form: How letters are written, as `Task.letter_form`; None where outputs are texts, of choices or others.
    """

    splits: list[list[Row]]
    form: str | None = None
    notes: tuple[str, ...] = ()


def settle_choices(splits: Sequence[Sequence[Row]], names: Mapping[str, str], *, in_input: bool | None) -> Chosen:
    """Bring outputs that say their choice by letter or number - A, (A), A., a), 1, (1) - into one form.

    Where inputs list the choices with such marks, all outputs get the form that most train rows have. Elsewhere a mark
    says nothing to a model, and the text of the choice takes its place. Left as they are: outputs that are as often the
    text of a choice as its place, and numbers that may be counted from 0 as well as from 1.

    Args:
        splits: Train and test rows.
        names: Field to column.
        in_input: Whether inputs list the choices; None to look.

    Raises:
        BadRowsError: A test row does not say its choice in the way of the train rows.
    """
    column = names["output"]

    def parts(row: Row) -> tuple[str, list[Any]]:
        choices = row.values.get(names.get("choices", "choices"))
        output = row.values.get(column)
        return trimmed(str(output)), choices if isinstance(choices, list) else []

    def text_of(row: Row) -> str:
        return str(row.values.get(names["input"]))

    train = [(row, *parts(row)) for row in splits[0]]
    marks = [m for _, output, choices in train if choices and (m := MARK.fullmatch(output))]
    n_texts = sum(_is_text(output, choices) for _, output, choices in train)
    n_places = sum(any(_chosen(how, *parts(row)) is not None for how in PLACES) for row in splits[0])
    unchanged = Chosen([list(rows) for rows in splits])
    if len(marks) * 2 <= len(train) or (n_places <= n_texts and not in_input):
        return unchanged
    form, _ = Counter(map(_form, marks)).most_common(1)[0]
    if in_input is None:
        bare = form.strip("()[].:")
        named = [(row, [named_choice(bare, i) for i in range(len(choices))]) for row, _, choices in train]
        in_input = sum(lists_choices(text_of(row), those) for row, those in named) * 2 > len(train)
    if not in_input:
        return _as_texts(splits, names, parts, by_letter="1" not in form) or unchanged
    others: list[str] = []

    def in_form(row: Row) -> Row:
        output, choices = parts(row)
        mark = MARK.fullmatch(output)
        if mark is None or mark["name"].isdecimal() != ("1" in form):
            return row
        place = PLACES[FROM_1 if "1" in form else LETTERS](mark["name"])
        if place is None or not 0 <= place < len(choices):
            return row
        if output != (written := named_choice(form, place)):
            others.append(output)
        return answered(row, names, written)

    made = [[in_form(row) for row in rows] for rows in splits]
    notes = [] if form == "(A)" else [f"outputs name a choice that the input lists as '{form}'; so will answers"]
    if others:
        n_rows = f"{len(others)} outputs name their choice" if len(others) > 1 else "1 output names its choice"
        notes.append(f"{n_rows} in another way than most, such as '{others[0]}'; it is written as '{form}' is")
    return Chosen(made, form, tuple(notes))


def _form(mark: re.Match[str]) -> str:
    name = mark["name"]
    return f"{mark['before']}{'1' if name.isdecimal() else 'A' if name.isupper() else 'a'}{mark['after']}"


def _is_text(output: str, choices: list[Any]) -> bool:
    return any(isinstance(choice, str) and trimmed(choice) == output for choice in choices)


def lists_choices(text: str, names: Sequence[str]) -> bool:
    """Return whether a text has a mark for each of the choices, such as "A." or "(A)", by what names them."""
    return bool(names) and all(re.search(rf"(?<!\w){re.escape(name)}[.):\]]", text) for name in names)


def _as_texts(
    splits: Sequence[Sequence[Row]],
    names: Mapping[str, str],
    parts: Callable[[Row], tuple[str, list[Any]]],
    *,
    by_letter: bool,
) -> Chosen | None:
    """Put the chosen text in place of its mark, or return None where it cannot be told which one is meant."""
    column = names["output"]
    train = [parts(row) for row in splits[0]]
    how = LETTERS if by_letter else _counted(train)
    if how is None or any(_is_text(*row) and _chosen(how, *row) not in (None, row[0]) for row in train):
        return None  # in the second case an output is the text of another choice than it would be by its mark

    def with_text(row: Row) -> Row:
        output, choices = parts(row)
        text = _chosen(how, output, choices)
        if text is not None:
            return answered(row, names, text)
        if choices and not _is_text(output, choices) and row.values.get(column) is not None:
            row.fail(
                f"'{column}' must hold {how}, as most rows of train do, and there are {len(choices)}; got "
                f"{shown(row.values[column])}; correct it, or leave the row out."
            )
        return row

    note = f"the column '{column}' holds {how}; it is read as the text of that choice"
    return Chosen(_each(splits, with_text), notes=(note,))


def _counted(train: Sequence[tuple[str, list[Any]]]) -> str | None:
    """Return from where numbers of choices count, if only one way fits all rows, or nearly all where none fits all."""
    n_fitting = {how: sum(_chosen(how, *row) is not None for row in train) for how in PLACES if how != LETTERS}
    n_texts = sum(_is_text(output, choices) and not MARK.fullmatch(output) for output, choices in train)
    for least in (len(train), NEARLY_ALL * len(train) - n_texts):
        if fitting := [how for how, n in n_fitting.items() if n >= least]:
            return fitting[0] if len(fitting) == 1 else None
    return None


def answered(row: Row, names: Mapping[str, str], output: str) -> Row:
    """Return the row with another text for its output, also where that stands among the references."""
    column, references = names["output"], names.get("references", "references")
    before, values = row.values.get(column), {**row.values, column: output}
    if isinstance(accepted := values.get(references), list):
        values[references] = [output if text == before else text for text in accepted]
    return replace(row, values=values)


def _chosen(how: str, output: str, choices: list[Any]) -> Any:
    mark = MARK.fullmatch(output)
    place = PLACES[how](mark["name"]) if mark else None
    return choices[place] if place is not None and 0 <= place < len(choices) else None


def _each(splits: Sequence[Sequence[Row]], read: Callable[[Row], Row]) -> list[list[Row]]:
    rows = iter(each_row((row for split in splits for row in split), read))
    return [[next(rows) for _ in split] for split in splits]


def final_answers(splits: Sequence[Sequence[Row]], names: Mapping[str, str]) -> tuple[list[list[Row]], tuple[str, ...]]:
    """Part outputs that are a rationale and then "#### 18", as those of GSM8K, if most train rows are like that.

    Returns:
        Rows whose output is the number and whose explanation is the rationale, and a note if they were changed.

    Raises:
        BadRowsError: A row has no number after "####", where most have.
    """
    column, explanation = names["output"], names.get("explanation", "explanation")

    def final(row: Row) -> re.Match[str] | None:
        value = row.values.get(column)
        found = FINAL.fullmatch(value) if isinstance(value, str) else None
        return found if found and NUMBER.fullmatch(found["answer"]) else None

    if sum(final(row) is not None for row in splits[0]) * 2 <= len(splits[0]):
        return [list(rows) for rows in splits], ()

    def parted(row: Row) -> Row:
        found = final(row)
        if found is None:
            row.fail(
                f"'{column}' must end with '#### ' and a number, as most rows do; got {shown(row.values.get(column))}; "
                "correct it, leave the row out, or say --kind generation to keep outputs as they are."
            )
        told = (row.values.get(explanation), trimmed(found["rationale"]))
        reasons = "\n".join(text for text in told if isinstance(text, str) and not is_missing(text))
        changed = {column: found["answer"]} | ({explanation: reasons} if reasons else {})
        return replace(row, values={**row.values, **changed})

    note = (
        f"the number after '####' in the column '{column}' is the output, what stands before it the explanation "
        "(--kind generation keeps both as the output)"
    )
    return _each(splits, parted), (note,)


def check_answer(example: Example, task: Task, fail: Callable[[str], NoReturn], *, guessed: bool = False) -> None:
    """Refuse an output that is none of the answers the example can have, for kinds where these are known.

    Args:
        example: With an output.
        task: Kind, labels, and whether choices are named by letters.
        fail: Raises what is said of the example.
        guessed: Nobody has said that the task is of this kind.
    """
    output = example.output
    if task.is_multi_label:
        check_label_set(output, task, fail)
    if task.kind == "classification" and output not in task.labels:
        hint = did_you_mean(output, task.labels)
        if task.ordered:
            order = " < ".join(task.labels)
            fail(f"'{output}' is not in the order of the labels, {order}; correct it, or put it into its place.{hint}")
        free = "; where outputs are free texts, say --kind generation" if guessed else ""
        fail(f"'{output}' is not among the task's labels; correct it or list it in task.json{free}.{hint}")
    if task.kind != "multiple_choice":
        return
    check_choices(example, task, fail)
    candidates = task.candidates(example)
    if output in candidates:
        return
    if not task.choices_in_input and output.isdecimal() and int(output) <= len(candidates):
        fail(
            f"'{output}' is not among the row's choices, and it cannot be told whether the numbers of the "
            "choices count from 0 or from 1; write the text of the choice, or its letter, in all rows."
        )
    what = "letters of the row's choices" if task.choices_in_input else "row's choices"
    hint = did_you_mean(output, candidates)
    fail(f"'{output}' is not among the {what}; correct it, or choices_in_input in task.json.{hint}")


def check_choices(example: Example, task: Task, fail: Callable[[str], NoReturn]) -> None:
    """Refuse a question whose choices do not make different answers; of a task of another kind nothing is asked.

    Args:
        example: With or without an output.
        task: Kind, and whether choices are named by letters.
        fail: Raises what is said of the example.
    """
    if task.kind != "multiple_choice":
        return
    if len(example.choices) < 2:
        fail(
            f"a multiple-choice row must have at least 2 'choices'; got {len(example.choices)}; list them in each row, "
            'such as "choices": ["…", "…"]; where the input lists them as (A) … too, task.json may say '
            '"choices_in_input": true.'
        )
    if task.choices_in_input and "1" not in task.letter_form and len(example.choices) > 26:
        fail(
            f"'choices' that are answered by a letter must be at most 26; got {len(example.choices)}; leave some out, "
            "or leave the row out."
        )
    candidates = task.candidates(example)
    if len(set(candidates)) < len(candidates):
        fail("the 'choices' must differ, because the output is the text of one of them; write each of them once.")


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
