"""Load a task: read its rows, settle what the task is, and refuse what cannot be worked with.

A folder holds `train` and maybe `test`, each a file of rows (`kshot.tasks.tables`), and maybe `task.json` with any of:
name, kind, labels, metrics, instruction, choices_in_input, positive_label (other keys are for people and are not read).
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kshot.core.errors import UserError, did_you_mean
from kshot.core.types import KINDS, Example, Kind, Task
from kshot.tasks.answers import chosen_texts, numbers_as_text
from kshot.tasks.builtin import load_builtin
from kshot.tasks.columns import check_columns, find_columns, laid_out, named
from kshot.tasks.conversations import SYSTEM_COLUMNS, as_examples, columns_of_messages
from kshot.tasks.endings import ending_note
from kshot.tasks.hub_dataset import PREFIX, read_hub_dataset
from kshot.tasks.instruction_data import HISTORY, with_what_was_said
from kshot.tasks.rows import Row, shown, text_flaw
from kshot.tasks.tables import REMEDIES, SUFFIXES, Table, read_table
from kshot.tasks.text_file import read_text
from kshot.tasks.unlabelled import without_unlabelled
from kshot.tasks.unused import refuse_options, unused_note

MAX_INFERRED_LABELS = 50
DEFAULT_METRIC: Mapping[Kind, str] = {
    "classification": "accuracy",
    "multiple_choice": "accuracy",
    "generation": "exact_match",
    "qa": "exact_match",
    "math": "exact_match_number",
    "parsing": "exact_match",
}
VALIDATION = {f"{split}{suffix}" for split in ("validation", "valid", "val", "dev") for suffix in SUFFIXES}
ENDINGS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
LETTER = re.compile(r"\([A-Z]\)")
NUMBER = re.compile(r"[-+]?[$€£]?[0-9][0-9,]*(\.[0-9]+)?")


def load_task(source: str | Path, *, columns: Mapping[str, str] | None = None) -> Task:
    """Load a task from files, through the `datasets` library, or a built-in one.

    What `task.json` does not say is inferred from the train rows: rows with choices are multiple choice; rows with
    references are questions (qa); few and repeated outputs are the labels of a classification; other outputs that are
    all numbers are math; anything else is generation. What was guessed is in the task's `notes`.

    Args:
        source: A folder, a file of rows that ends in one of `SUFFIXES` (train rows only), "builtin:NAME", or a dataset
            of the hub or a local folder as "hf://NAME[:CONFIG][@TRAIN[,TEST]]".
        columns: Which column holds a field, such as {"input": "question", "output": "answer"}. Not needed for
            columns with the fields' own names; input, output, context, choices and references are guessed from common
            names (see `kshot.tasks.columns`), and rows can be conversations (`kshot.tasks.conversations`). In CSV,
            cells of choices and references are split at "|".

    Raises:
        UserError: The first thing that is wrong, with file, row and remedy.
    """
    columns = columns or {}
    if str(source).startswith("builtin:"):
        if columns:
            raise UserError("--columns must be left out for a builtin task; its columns are known.")
        return load_builtin(str(source).removeprefix("builtin:"))
    named(columns)  # a field that does not exist is refused before anything is read
    if str(source).startswith(PREFIX):
        dataset = read_hub_dataset(str(source))
        return _task(dataset.name, _Card(), dataset.tables, columns, dataset.notes)
    path = Path(source)
    if os.path.isdir(path):  # os.path, as Path raises for names that are too long
        return _from_folder(path, columns)
    if not os.path.exists(path):
        raise UserError(
            f"there is no '{path}'; a task is a folder, a .jsonl, .csv or .parquet file, builtin:NAME or hf://NAME."
        )
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        remedy = REMEDIES.get(suffix, "save its rows as one of these")
        raise UserError(f"'{path}' must be a folder or a file that ends in {ENDINGS}; {remedy}.")
    return _task(path.stem, _Card(), [read_table(path)], columns)


def _from_folder(folder: Path, columns: Mapping[str, str]) -> Task:
    train = _split_file(folder, "train")
    if train is None:
        found = ", ".join(name for name in _names(folder) if Path(name).suffix.lower() in (*SUFFIXES, *REMEDIES))
        raise UserError(
            f"the folder '{folder}' must hold train.jsonl, train.csv or train.parquet; it has {found or 'none'}; "
            "name one of its files train, or give the file instead of the folder."
        )
    test = _split_file(folder, "test")
    card, notes = _read_card(folder / "task.json")
    if test is None and (others := [name for name in _names(folder) if name.lower() in VALIDATION]):
        notes += (f"there are no test rows; '{others[0]}' is not read unless it is named test",)
    tables = [read_table(file) for file in (train, test) if file]
    return _task(card.name or folder.resolve().name, card, tables, columns, notes)


def _split_file(folder: Path, split: str) -> Path | None:
    files = [folder / name for name in _names(folder) if name.lower() in {f"{split}{suffix}" for suffix in SUFFIXES}]
    if len(files) > 1:
        there = " and ".join(file.name for file in files)
        raise UserError(f"the folder '{folder}' must hold the rows of {split} once; it holds {there}; remove one.")
    return files[0] if files else None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"the folder '{folder}' cannot be read: {error.strerror}; give one that you may read."
        ) from None


def _no_flaw(text: str) -> str:
    if flaw := text_flaw(text):
        raise ValueError(flaw)
    return text


_Text = Annotated[str, AfterValidator(_no_flaw)]
_Name = Annotated[str, Field(min_length=1), AfterValidator(_no_flaw)]


class _Card(BaseModel):
    """What `task.json` may say about a task."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: _Name | None = None
    kind: Kind | None = None
    labels: tuple[_Name, ...] = ()
    metrics: tuple[_Name, ...] = ()
    instruction: _Text = ""
    choices_in_input: bool | None = None
    positive_label: str | None = None


def _read_card(file: Path) -> tuple[_Card, tuple[str, ...]]:
    """Return what the file says, and notes on it."""
    if not file.exists():
        return _Card(), ()
    text = read_text(file)
    try:
        card = _Card.model_validate_json(text)
    except ValidationError as error:
        raise _card_error(file, error) from None
    if len(set(card.labels)) < len(card.labels):
        twice = next(label for label in card.labels if card.labels.count(label) > 1)
        raise UserError(f"{file}: 'labels' must differ; '{twice}' is there twice.")
    return card, tuple(_unknown_keys(json.loads(text)))


def _unknown_keys(card: Mapping[str, object]) -> Iterator[str]:
    """Name the keys that are not read but look as if they should be; others are for people."""
    absent = [field for field in _Card.model_fields if field not in card]
    for key in card:
        close = [] if key in _Card.model_fields else get_close_matches(key.lower(), absent, n=1, cutoff=0.8)
        if key == "columns":
            yield "task.json: 'columns' is not read; name columns with --columns"
        elif close:
            yield f"task.json: '{key}' is not read; did you mean '{close[0]}'?"


def _card_error(file: Path, error: ValidationError) -> UserError:
    first = error.errors()[0]
    where, got = first["loc"], first["input"]
    if first["type"] == "json_invalid":
        return UserError(f"{file} must be one JSON object; {first['msg']}.")
    if where == ("kind",) and isinstance(got, str):
        return UserError(f"{file}: there is no kind '{got}'.{did_you_mean(got, KINDS)}")
    what = "".join(f" '{part}'" if isinstance(part, str) else f" item {part + 1}" for part in where) or " it"
    return UserError(f"{file}:{what} is not as it must be; got {shown(got)}; {first['msg']}.")


@dataclass(frozen=True)
class _Read:
    """The rows of a task in one form, whatever the form they came in."""

    splits: list[list[Row]]
    names: Mapping[str, str]
    columns: Mapping[str, str]
    instruction: str
    notes: tuple[str, ...]


def _read(card: _Card, tables: list[Table], columns: Mapping[str, str]) -> _Read:
    """Settle which columns hold the fields, from the train rows, and bring all rows into that form."""
    instruction, notes = "", []
    if messages := columns_of_messages(tables[0], columns):
        tables, instruction = as_examples(tables, messages)
        notes.append(f"input and output are the last two messages in {messages}")
    check_columns(tables[0], columns)
    layout = find_columns(tables[0], columns)
    tables, shared, said = with_what_was_said(tables, layout.names)
    instruction = instruction or shared
    train, *tests = tables
    tables = [laid_out(t, layout) for t in (train, *(without_unlabelled(test, train, layout) for test in tests))]
    splits = [list(table.rows) for table in tables]
    notes += [*layout.notes, *said, *ending_note(splits[0], layout.names["input"])]
    if instruction:
        what = "is replaced by that of task.json" if card.instruction else "is the instruction"
        notes.append(f"the system message, the same in all rows, {what}")
    if card.kind in (None, "multiple_choice") and not card.labels:
        refuse_options(tables[0], layout.names)
    known = {**layout.guessed, **columns}
    own = messages is None and all(field == column for field, column in known.items())
    notes += unused_note(tables[0], layout.names, (*SYSTEM_COLUMNS, HISTORY) if own else None)
    if card.kind in (None, "multiple_choice") and not card.choices_in_input:
        splits, more = chosen_texts(splits, layout.names)
        notes += more
    for i, rows in enumerate(splits):
        splits[i], more = numbers_as_text(rows, layout.names)
        notes += more
    notes = [*(note for table in tables for note in table.notes), *notes]
    return _Read(splits, layout.names, known, card.instruction or instruction, tuple(dict.fromkeys(notes)))


def _task(name: str, card: _Card, tables: list[Table], columns: Mapping[str, str], notes: tuple[str, ...] = ()) -> Task:
    read = _read(card, tables, columns)
    train, test = read.splits[0], [row for rows in read.splits[1:] for row in rows]
    train_examples, test_examples = _examples(train, read.names, "train"), _examples(test, read.names, "test")
    kind = card.kind or _inferred_kind(train_examples, card)
    outputs = [e.output for e in train_examples]
    # Most, not all: so that it is the one row which lacks a letter that gets refused.
    letters = sum(LETTER.fullmatch(output) is not None for output in outputs) * 2 > len(outputs)
    task = Task(
        name=name,
        kind=kind,
        train=train_examples,
        test=test_examples,
        labels=card.labels or (tuple(sorted(set(outputs))) if kind == "classification" else ()),
        metrics=card.metrics or (DEFAULT_METRIC[kind],),
        instruction=read.instruction,
        choices_in_input=letters if card.choices_in_input is None else card.choices_in_input,
        positive_label=card.positive_label,
        notes=(*notes, *read.notes),
        columns=read.columns,
    )
    if card.kind is None and not card.labels and kind != "multiple_choice":
        with_labels = f" with {len(task.labels)} label{'s' * (len(task.labels) != 1)}" if task.labels else ""
        basis = "references" if kind == "qa" else "outputs"
        said = f"kind is guessed from the {basis}: {kind}{with_labels} (a folder with task.json can say another)"
        task = replace(task, notes=(*task.notes, said))
    _check_labels(task)
    for row, example in zip([*train, *test], [*train_examples, *test_examples], strict=True):
        _check_answer(row, example, task)
    return task


def _check_labels(task: Task) -> None:
    where, known, positive = f"task.json of '{task.name}'", task.labels, task.positive_label
    if known and task.kind != "classification":
        raise UserError(f"{where}: labels are for the kind classification; leave them out for {task.kind}.")
    if positive is not None and positive not in known:
        hint = did_you_mean(positive, known) if known else ""
        raise UserError(f"{where}: positive_label must be one of the labels; got '{positive}'.{hint}")


def _examples(rows: list[Row], names: Mapping[str, str], split: str) -> tuple[Example, ...]:
    examples, seen = [], {}
    for row in rows:
        example = row.example(names, split)
        if example.id in seen:
            row.fail(f"the id '{example.id}' is that of row {seen[example.id]} too; ids must differ within a file.")
        seen[example.id] = row.number
        examples.append(example)
    return tuple(examples)


def _inferred_kind(train: tuple[Example, ...], card: _Card) -> Kind:
    if any(e.choices for e in train):
        return "multiple_choice"
    n_outputs = len({e.output for e in train})
    few = n_outputs <= max(2, min(MAX_INFERRED_LABELS, len(train) // 2)) and n_outputs < len(train)
    if card.labels:
        return "classification"
    if any(e.references for e in train):
        return "qa"
    if few:
        return "classification"
    return "math" if all(NUMBER.fullmatch(e.output.strip()) for e in train) else "generation"


def _check_answer(row: Row, example: Example, task: Task) -> None:
    """Refuse an output that is none of the answers the row can have, for kinds where these are known."""
    if task.kind == "classification" and example.output not in task.labels:
        hint = did_you_mean(example.output, task.labels)
        row.fail(f"'{example.output}' is not among the task's labels; correct it or list it in task.json.{hint}")
    if task.kind != "multiple_choice":
        return
    if len(example.choices) < 2:
        row.fail(
            f"a multiple-choice row must have at least 2 'choices'; got {len(example.choices)}; list them in each row, "
            'such as "choices": ["…", "…"]; where the input lists them as (A) … too, task.json may say '
            '"choices_in_input": true.'
        )
    candidates = task.candidates(example)
    if not task.choices_in_input and len(set(candidates)) < len(candidates):
        row.fail("the 'choices' must differ, because the output is the text of one of them.")
    if task.choices_in_input and len(candidates) > 26:
        row.fail(f"'choices' that are answered by a letter must be at most 26; got {len(candidates)}.")
    if example.output not in candidates:
        if not task.choices_in_input and example.output.isdecimal() and int(example.output) <= len(candidates):
            row.fail(
                f"'{example.output}' is not among the row's choices, and it cannot be told whether the numbers of the "
                "choices count from 0 or from 1; write the text of the choice, or its letter, in all rows."
            )
        what = "letters of the row's choices" if task.choices_in_input else "row's choices"
        hint = did_you_mean(example.output, candidates)
        row.fail(f"'{example.output}' is not among the {what}; correct it, or choices_in_input in task.json.{hint}")
