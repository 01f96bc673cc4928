"""Load a task: read its rows, settle what the task is, and refuse what cannot be worked with.

A folder holds `train` and maybe `test`, each a file of rows (`kshot.tasks.tables`), or subfolders of texts that are
named as labels (`kshot.tasks.label_folders`); maybe `cot` with worked examples, whose rows have an explanation too
(`kshot.tasks.worked`), maybe `unlabelled` with more inputs, whose answers are not known (`kshot.tasks.unlabelled`), and
maybe `task.json` with any of:
name, kind, labels, order, answer, metrics, instruction, choices_in_input, positive_label, separator (other keys are for
people and are not read).
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from kshot.core.errors import UserError, did_you_mean
from kshot.core.kind_names import kind_of_flag, known_kind, meant_kind
from kshot.core.paths import at_home
from kshot.core.types import KINDS, LABELLED, Answer, Example, Kind, Rows, Task
from kshot.tasks.answers import check_answer, final_answers, numbers_as_text, settle_choices
from kshot.tasks.bad_rows import left_out, without_bad_rows
from kshot.tasks.builtin import load_builtin
from kshot.tasks.columns import check_columns, check_test_columns, columns_as_learnt, find_columns, laid_out, named
from kshot.tasks.conversations import SYSTEM_COLUMNS, as_examples, columns_of_messages
from kshot.tasks.endings import ending_note
from kshot.tasks.hidden_answers import without_hidden
from kshot.tasks.hub_dataset import PREFIX, read_hub_dataset
from kshot.tasks.instruction_data import HISTORY, with_what_was_said
from kshot.tasks.kinds import guessed_kind
from kshot.tasks.label_folders import read_label_folders
from kshot.tasks.label_sets_given import label_flaw, labels_seen, settle_label_sets
from kshot.tasks.labels import trimmed_examples
from kshot.tasks.marked_choices import without_marks
from kshot.tasks.missing import trimmed
from kshot.tasks.objects import read_objects, table_of
from kshot.tasks.order import METRICS_OF_ORDER, as_label, check_order, order_note
from kshot.tasks.rows import BadRow, Row, each_row, shown, text_flaw
from kshot.tasks.tables import READ_SUFFIXES, REMEDIES, SUFFIXES, Table, read_table, rows_suffix
from kshot.tasks.text_file import read_text
from kshot.tasks.unlabelled import UNLABELLED, UNLABELLED_SUFFIXES, with_file
from kshot.tasks.unused import refuse_options, unused_note
from kshot.tasks.worked import WORKED, apart, check_worked

DEFAULT_METRIC: Mapping[Kind, str] = {
    "classification": "accuracy",
    "multi_label": "micro_f1",
    "multiple_choice": "accuracy",
    "generation": "exact_match",
    "qa": "exact_match",
    "math": "exact_match_number",
    "parsing": "exact_match",
}
VALIDATION = {f"{split}{suffix}" for split in ("validation", "valid", "val", "dev") for suffix in READ_SUFFIXES}
ENDINGS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def load_task(
    source: str | Path | Rows,
    *,
    test: str | Path | Rows | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    order: Sequence[Any] | None = None,
    skip_bad_rows: bool = False,
    learnt: Task | None = None,
) -> Task:
    """Load a task from files, through the `datasets` library, from rows that Python holds, or a built-in one.

    What neither `kind` nor `task.json` says is guessed from the train rows (`kshot.tasks.kinds`). What was guessed is
    in the task's `notes`.

    Args:
        source: A folder, a file of rows that ends in one of `READ_SUFFIXES` (train rows only), "builtin:NAME", or a
            dataset of the hub or a local folder as "hf://NAME[:CONFIG][@TRAIN[,TEST]]"; or rows (`read_objects`).
        test: The test rows, where `source` is a file or rows: another file or other rows.
        columns: Which column holds a field, such as {"input": "question", "output": "answer"}. Not needed for
            columns with the fields' own names; input, output, context, choices and references are guessed from common
            names (see `kshot.tasks.columns`), and rows can be conversations (`kshot.tasks.conversations`). In CSV,
            cells of choices and references are split at "|".
        kind: What the task is, whatever `task.json` says and the rows look like.
        order: The labels from the lowest to the highest, whatever `task.json` says; see `kshot.tasks.order`.
        skip_bad_rows: Go on without rows that cannot be used, at most half of each file; a note names them.
        learnt: A task that was learnt. Without `columns`, rows that have its input's column are read as its rows were;
            a single file has its labels.

    Raises:
        BadRowsError: Rows that cannot be used: all of them, with file, row and remedy.
        UserError: The first other thing that is wrong, with its remedy.
    """
    columns = columns or {}
    kind = kind if kind is None else kind_of_flag(kind)
    source = at_home(source) if isinstance(source, str | os.PathLike) else source
    if isinstance(source, str) and source.startswith("builtin:"):
        given = {"--columns": columns, "--kind": kind, "--test": test, "order": order}
        if flag := next((flag for flag, value in given.items() if value is not None and value != {}), None):
            what = {"--columns": "columns are", "--kind": "kind is"}.get(flag, "rows and labels are")
            raise UserError(f"{flag} must be left out for a builtin task; its {what} known.")
        return load_builtin(source.removeprefix("builtin:"))
    named(columns)  # a field that does not exist is refused before anything is read
    known, bad = {} if columns or not learnt else learnt.columns, list[BadRow]()
    settle = partial(_task, kind=kind, order=order, columns=columns, learnt=known)
    alone = _card_of(learnt)
    if test is not None:
        tables, name = _with_test(source, test, bad)
        return _without_bad_rows(partial(settle, name, _Card()), tables, bad, skip=skip_bad_rows)
    if not isinstance(source, str):
        tables, notes = read_objects(source, bad)
        make = partial(settle, "data", alone if len(tables) == 1 else _Card(), notes=notes)
        return _without_bad_rows(make, tables, bad, skip=skip_bad_rows)
    if source.startswith(PREFIX):
        dataset = read_hub_dataset(source, bad)
        make = partial(settle, dataset.name, _Card(), notes=dataset.notes)
        return _without_bad_rows(make, dataset.tables, bad, skip=skip_bad_rows)
    path = Path(source)
    if os.path.isdir(path):  # os.path, as Path raises for names that are too long
        tables, name, card, notes, has_worked = _read_folder(path, bad)
        make = partial(settle, name, card, notes=notes, has_worked=has_worked)
        task = _without_bad_rows(make, tables, bad, skip=skip_bad_rows)
        more = _split_file(path, *UNLABELLED, suffixes=UNLABELLED_SUFFIXES)
        return with_file(task, more, skip_bad_rows=skip_bad_rows) if more else task
    if not os.path.exists(path):
        raise UserError(
            f"there is no '{path}'; give a folder, a file that ends in {', '.join(SUFFIXES)}, builtin:NAME or "
            "hf://NAME[:CONFIG][@TRAIN[,TEST]]."
        )
    table, name = _read_file(path, bad)
    return _without_bad_rows(partial(settle, name, alone), [table], bad, skip=skip_bad_rows)


def _read_file(path: Path, bad: list[BadRow]) -> tuple[Table, str]:
    """Return the rows of a file, and what a task of them is called."""
    if (suffix := rows_suffix(path)) not in READ_SUFFIXES:
        remedy = REMEDIES.get(suffix, "save its rows as one of these")
        raise UserError(f"'{path}' must be a folder or a file that ends in {ENDINGS}; {remedy}.")
    return read_table(path, bad), path.name[: -len(suffix)]


def _with_test(source: str | Rows, test: str | Path | Rows, bad: list[BadRow]) -> tuple[list[Table], str]:
    """Return the tables of train and test rows that were given apart, and the task's name."""
    tables, names = [], []
    for split, given in (("train", source), ("test", at_home(test) if isinstance(test, str | os.PathLike) else test)):
        _check_apart(given, split)
        table, name = (
            _read_file(Path(given), bad) if isinstance(given, str) else (table_of(given, f" of {split}", bad), "data")
        )
        tables.append(table)
        names.append(name)
    return tables, names[0]


def _check_apart(given: Any, split: str) -> None:
    """Refuse what brings its own test rows, or is not there, where train and test rows are given apart."""
    if isinstance(given, str) and not given.startswith(PREFIX) and not os.path.exists(given):
        raise UserError(f"there is no '{given}'; give a file of {split} rows that ends in {ENDINGS}.")
    if isinstance(given, Mapping) or (isinstance(given, str) and not os.path.isfile(given)):
        got = f"'{given}'" if isinstance(given, str) else "a mapping"
        raise UserError(
            "Where --test (in Python test=) is given, train and test rows must each be a file or rows in Python; for "
            f"{split} got {got}. Folders (as a file named test), datasets of the hub and mappings bring their own test "
            "rows: leave it out."
        )


def _card_of(learnt: Task | None) -> "_Card":
    """Return what is known of train rows that nothing comes with, where a task was learnt."""
    if learnt is None:
        return _Card()
    order = {"order": learnt.labels, "answer": learnt.answer} if learnt.ordered else {}
    return _Card(labels=learnt.labels, **order)


def _without_bad_rows(
    make: Callable[[list[Table]], Task], tables: Sequence[Table], bad: Sequence[BadRow], *, skip: bool
) -> Task:
    task, found = without_bad_rows(make, tables, bad, skip=skip)
    return replace(task, notes=(*task.notes, *left_out(found)))


def _read_folder(folder: Path, bad: list[BadRow]) -> tuple[list[Table], str, "_Card", tuple[str, ...], bool]:
    """Return a folder's tables, the task's name, what `task.json` says, notes on it, whether the last are worked."""
    train = _split_file(folder, "train")
    texts = None if train else read_label_folders(folder, bad)
    if train is None and texts is None:
        found = ", ".join(name for name in _names(folder) if Path(name).suffix.lower() in (*SUFFIXES, *REMEDIES))
        raise UserError(
            f"the folder '{folder}' must hold a file train that ends in {ENDINGS}; it has {found or 'none'}; "
            "name one of its files train, or give the file instead of the folder."
        )
    test, worked = _split_file(folder, "test"), _split_file(folder, WORKED)
    card, notes = _read_card(folder / "task.json")
    if test and texts and texts.test:
        raise UserError(
            f"the folder '{folder}' must hold the rows of test once; it holds {test.name} and test; remove one."
        )
    if (
        test is None
        and not (texts and texts.test)
        and (others := [name for name in _names(folder) if name.lower() in VALIDATION])
    ):
        notes += (f"there are no test rows; '{others[0]}' is not read unless it is named test",)
    tables = [read_table(file, bad) for file in (train, test, worked) if file]
    if texts:
        tables = [texts.train, *([texts.test] if texts.test else []), *tables]
        card = card.model_copy(update={"kind": card.kind or "classification"})
        notes += (texts.note,)
    return tables, card.name or folder.resolve().name, card, notes, worked is not None


def _split_file(folder: Path, *splits: str, suffixes: Sequence[str] = READ_SUFFIXES) -> Path | None:
    """Return the file of a split, which may be called by any of some names; None where there is none."""
    known = {f"{split}{suffix}" for split in splits for suffix in suffixes}
    files = [folder / name for name in _names(folder) if name.lower() in known]
    if len(files) > 1:
        there = " and ".join(file.name for file in files)
        raise UserError(f"the folder '{folder}' must hold the rows of {splits[0]} once; it holds {there}; remove one.")
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


def _not_blank(text: str) -> str:
    if not trimmed(text):
        raise ValueError("nothing in it can be seen; fill it in, or leave it out")
    return text


_Text = Annotated[str, AfterValidator(_no_flaw)]
_Name = Annotated[_Text, AfterValidator(_not_blank)]
_Label = Annotated[_Name, AfterValidator(trimmed)]


class _Card(BaseModel):
    """What `task.json` may say about a task."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: _Name | None = None
    kind: Annotated[Kind | None, BeforeValidator(lambda name: known_kind(name) or name)] = None
    labels: tuple[_Label, ...] = ()
    order: tuple[Annotated[_Label, BeforeValidator(as_label)], ...] | None = None
    answer: Answer | None = None
    metrics: tuple[_Name, ...] = ()
    instruction: _Text = ""
    choices_in_input: bool | None = None
    positive_label: _Label | None = None
    separator: _Name | None = None


def _read_card(file: Path) -> tuple[_Card, tuple[str, ...]]:
    """Return what the file says, and notes on it."""
    if not file.exists():
        return _Card(), ()
    text = read_text(file)
    try:
        card = _Card.model_validate_json(text)
    except ValidationError as error:
        raise _card_error(file, error) from None
    for field, labels in (("labels", card.labels), ("order", card.order or ())):
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise UserError(f"{file}: '{field}' must differ; '{twice}' is there twice.")
    if problem := check_order(card.order, card.labels, card.kind, card.answer):
        raise UserError(f"{file}: {problem}")
    card = card.model_copy(update={"labels": card.order or card.labels})
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
        return UserError(f"{file}: there is no kind '{got}'.{did_you_mean(meant_kind(got), KINDS)}")
    said = first["msg"].removeprefix("Value error, ")
    what = "".join(f" '{part}'" if isinstance(part, str) else f" item {part + 1}" for part in where) or " it"
    return UserError(f"{file}:{what} is not as it must be; got {shown(got)}; {said}.")


@dataclass(frozen=True)
class _Read:
    """The rows of a task in one form, whatever the form they came in."""

    splits: list[list[Row]]
    names: Mapping[str, str]
    columns: Mapping[str, str]
    instruction: str
    letter_form: str | None
    kind: Kind | None
    notes: tuple[str, ...]


def _read(
    card: _Card, tables: list[Table], columns: Mapping[str, str], learnt: Mapping[str, str], *, has_worked: bool
) -> _Read:
    """Settle which columns hold the fields, from the train rows, and bring all rows into that form."""
    instruction, notes = "", []
    layout = columns_as_learnt(tables[0], learnt)
    if messages := None if layout else columns_of_messages(tables[0], columns):
        tables, instruction = as_examples(tables, messages)
        notes.append(f"input and output are the last two messages in {messages}")
    check_columns(tables[0], columns)
    layout = layout or find_columns(tables[0], columns)
    tables, shared, said = with_what_was_said(tables, layout.names)
    instruction = instruction or shared
    train, *tests = tables
    worked = [tests.pop()] if has_worked else []
    tests = [*(without_hidden(test, train, layout) for test in tests), *worked]
    for test in tests:
        check_test_columns(test, layout)
    how: Any = {"kind": card.kind, "labels": card.labels, "separator": card.separator}
    tables, kind, of_sets = settle_label_sets((train, *tests), layout.names["output"], **how)
    tables = [laid_out(table, layout) for table in tables]
    splits = [list(table.rows) for table in tables]
    notes += [*layout.notes, *of_sets, *said, *ending_note(splits[0], layout.names["input"])]
    if instruction:
        what = "is replaced by that of task.json" if card.instruction else "is the instruction"
        notes.append(f"the system message, the same in all rows, {what}")
    if kind in (None, "multiple_choice") and not card.labels:
        refuse_options(tables[0], layout.names)
    known = {**layout.guessed, **columns}
    own = messages is None and all(field == column for field, column in known.items())
    notes += unused_note(tables[0], layout.names, (*SYSTEM_COLUMNS, HISTORY) if own else None)
    letter_form, final = None, ()
    can_choose = kind in (None, "multiple_choice")
    splits, more = without_marks(splits, layout.names, settle_outputs=can_choose, in_input=card.choices_in_input)
    notes += more
    if can_choose:
        chosen = settle_choices(splits, layout.names, in_input=card.choices_in_input)
        splits, letter_form = chosen.splits, chosen.form
        notes += chosen.notes
    if kind in (None, "math") and not card.labels:
        splits, final = final_answers(splits, layout.names)
        notes += final
    kind = kind or ("classification" if card.labels else "math" if final else None)
    for i, rows in enumerate(splits):
        splits[i], more = numbers_as_text(rows, layout.names)
        notes += more
    notes = [*(note for table in tables for note in table.notes), *notes]
    return _Read(
        splits,
        layout.names,
        known,
        instruction=card.instruction or instruction,
        letter_form=letter_form,
        kind=kind,
        notes=tuple(dict.fromkeys(notes)),
    )


def _task(
    name: str,
    card: _Card,
    tables: list[Table],
    *,
    kind: Kind | None,
    order: Sequence[Any] | None,
    columns: Mapping[str, str],
    learnt: Mapping[str, str],
    notes: tuple[str, ...] = (),
    has_worked: bool = False,
) -> Task:
    if kind and kind != card.kind:
        card, more = _as_kind(card, kind)
        notes += more
    if order is not None:
        card = _with_order(card, order)
    read = _read(card, tables, columns, learnt, has_worked=has_worked)
    train_rows, *tests = read.splits
    worked_rows = tests.pop() if has_worked else []
    rows = [train_rows, [row for rows in tests for row in rows], worked_rows]
    notes += read.notes
    splits = []
    for split_rows, split in zip(rows, ("train", "test", WORKED), strict=True):
        names = read.names if split != WORKED else {"explanation": "explanation", **read.names}
        examples, more = _examples(split_rows, names, split)
        splits.append(examples)
        notes += more
    known = read.kind
    settled = known or guessed_kind(splits[0])
    if settled in ("classification", "multiple_choice"):
        splits, more = trimmed_examples(splits)
        notes += more
    train, test, worked = splits
    each_row(list(zip(worked_rows, worked, strict=True)), lambda pair: check_worked(*pair))
    shown_worked, more = apart(worked, train, test)
    notes += more
    labels = card.labels or labels_seen(settled, train)
    if settled == "classification" and card.order is None:
        notes += order_note(labels)
    if known != "multi_label" and card.kind is None and not card.labels and settled != "multiple_choice":
        with_labels = f" with {len(labels)} label{'s' * (len(labels) != 1)}" if labels else ""
        notes += (f"kind is guessed from the rows: {settled}{with_labels} (--kind says another)",)
    task = Task(
        name=name,
        kind=settled,
        train=train,
        test=test,
        labels=labels,
        metrics=card.metrics or (METRICS_OF_ORDER if card.order else (DEFAULT_METRIC[settled],)),
        instruction=read.instruction,
        choices_in_input=read.letter_form is not None if card.choices_in_input is None else card.choices_in_input,
        positive_label=card.positive_label,
        notes=notes,
        columns=read.columns,
        letter_form=read.letter_form or "(A)",
        worked=shown_worked,
        ordered=bool(card.order),
        answer=card.answer or "most-probable",
    )
    _check_labels(task)
    checked = zip([row for some in rows for row in some], [*train, *test, *worked], strict=True)
    each_row(checked, lambda pair: check_answer(pair[1], task, pair[0].fail, guessed=known is None))
    return task


def _as_kind(card: _Card, kind: Kind) -> tuple[_Card, tuple[str, ...]]:
    """Return the card of a task of another kind, and a note on what it says of its own kind alone."""
    own = ("labels", "order", "answer", "positive_label", "metrics")
    own = () if kind in LABELLED and card.kind is None else own
    dropped = [field for field in own if getattr(card, field)]
    note = f"task.json: {', '.join(dropped)} left out, as --kind says that the task is {kind}"
    return card.model_copy(update={"kind": kind, **{f: _Card.model_fields[f].default for f in dropped}}), (
        (note,) if dropped else ()
    )


def _with_order(card: _Card, order: Sequence[Any]) -> _Card:
    """Return the card of a task whose order is said in Python."""
    found = [] if isinstance(order, str | set | frozenset | Mapping) else [as_label(label) for label in order]
    labels = tuple(trimmed(label) for label in found if isinstance(label, str) and trimmed(label))
    if len(labels) < max(2, len(found)) or len(set(labels)) < len(labels):
        raise UserError(
            f"order must be a list of the labels as texts or whole numbers, each once, the lowest first; got "
            f"{order!r}. Write it as [1, 2, 3]."
        )
    if problem := check_order(labels, (), card.kind, None):
        raise UserError(f"order must fit the task, but {problem} Give another order, or leave it out.")
    return card.model_copy(update={"labels": labels, "order": labels})


def _check_labels(task: Task) -> None:
    where, known, positive = f"task.json of '{task.name}'", task.labels, task.positive_label
    if known and task.kind not in LABELLED:
        raise UserError(
            f"{where}: labels are for the kinds classification and multi_label; leave them out for {task.kind}."
        )
    if task.is_multi_label and (flaw := next(filter(None, map(label_flaw, known)), None)):
        raise UserError(f"{where}: {flaw}")
    if positive is not None and positive not in known:
        hint = did_you_mean(positive, known) if known else ""
        raise UserError(f"{where}: positive_label must be one of the labels; got '{positive}'.{hint}")


def _examples(rows: list[Row], names: Mapping[str, str], split: str) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Return the rows as examples with ids that differ, and a note if some did not."""
    examples, seen, again = [], set[str](), []
    for row, example in zip(rows, each_row(rows, lambda row: row.example(names, split)), strict=True):
        unique = example
        while unique.id in seen:
            unique = replace(unique, id=f"{unique.id} (row {row.number})")
        if unique is not example:
            again.append(unique.id)
        seen.add(unique.id)
        examples.append(unique)
    if not again:
        return tuple(examples), ()
    first = ", ".join(f"'{name}'" for name in again[:3]) + (", …" if len(again) > 3 else "")
    n_rows = f"{len(again)} rows of {split} have" if len(again) > 1 else f"1 row of {split} has"
    return tuple(examples), (f"{n_rows} the id of an earlier row, and a new one: {first}; write ids that differ",)
