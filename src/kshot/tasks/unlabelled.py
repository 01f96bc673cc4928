"""Unlabelled inputs: more questions of a task, whose answers are not known, from a file beside train or given to a run.

They are read as inputs to be answered are (`kshot.tasks.inputs`). No answer of theirs is looked at, not even where the
file has some. An input of train is none of them, as its answer is known; one of test may be, which is said: what is
then measured on the test rows is of a method that has read their questions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.core.paths import at_home
from kshot.core.seeding import digest
from kshot.core.types import Example, Question, Task
from kshot.tasks.bad_rows import left_out
from kshot.tasks.columns import COMMON
from kshot.tasks.containers import items_of
from kshot.tasks.conversations import LISTS, ROLES
from kshot.tasks.inputs import input_of, inputs_of_lines, inputs_of_rows
from kshot.tasks.missing import is_missing
from kshot.tasks.packed import PACKED
from kshot.tasks.rows import BadRow, Row
from kshot.tasks.tables import READ_SUFFIXES, REMEDIES, SUFFIXES, TEXT, Table, read_table, rows_suffix
from kshot.tasks.text_file import read_text
from kshot.tasks.validate import duplicate_key

UNLABELLED = ("unlabelled", "unlabeled")  # what the file beside train may be called
UNLABELLED_SUFFIXES = (*READ_SUFFIXES, TEXT, TEXT + PACKED)
ASKED, ANSWERED = ("input", "context", "choices", "id"), ("output", "references", "explanation")
# Columns that hold answers whatever those of the task are called; SQuAD's are "answers"
OF_ANSWERS = frozenset({*ANSWERED, *COMMON["output"], "answers"})


def with_file(task: Task, file: Path, *, skip_bad_rows: bool = False) -> Task:
    """Return a task with the inputs of a file too, and notes on them.

    Args:
        task: Its columns say how its rows were read.
        file: Of rows, as train is, or a text with one input a line.
        skip_bad_rows: Leave out rows that cannot be used, at most half of them; a note names them.

    Raises:
        BadRowsError: Rows that cannot be used, all of them.
        UserError: The file cannot be read, or holds no input that train does not have.
    """
    suffix, bad = rows_suffix(file), list[BadRow]()
    if remedy := REMEDIES.get(suffix):
        raise UserError(
            f"{file} must be a file of rows that ends in {', '.join(SUFFIXES)}, or a text with one input a line; "
            f"{remedy}."
        )
    if suffix in READ_SUFFIXES:
        if suffix != ".parquet":
            _refuse_empty(file, read_text(file))
        table = _without_answers(read_table(file, bad), task)
        examples, notes, skipped = inputs_of_rows(table, bad, task=task, skip=skip_bad_rows)
        notes = (*notes, *left_out(skipped))
    else:
        text, notes = read_text(file), ()
        _refuse_empty(file, text)
        examples = inputs_of_lines(str(file), text, task, "inputs")
    if not examples:
        _refuse_empty(file, "")
    return _having_some(replace(task, notes=(*task.notes, *notes)), examples, f" of '{file.name}'", str(file))


def with_inputs(task: Task, inputs: Any, *, skip_bad_rows: bool = False) -> Task:
    """Return a task with the unlabelled inputs that a run was given, beside those that it has.

    Args:
        task: That of the run.
        inputs: A file, as for `with_file`; or texts, mappings or questions in whatever holds them (`items_of`).
        skip_bad_rows: As for `with_file`.

    Raises:
        UserError: As `with_file`; or what was given holds no inputs.
    """
    if isinstance(inputs, str | Path):
        return with_file(task, Path(at_home(inputs)), skip_bad_rows=skip_bad_rows)
    items = items_of(inputs, "The unlabelled inputs")
    if not items:
        raise UserError("The unlabelled inputs must be one or more; got none. Give some, or leave inputs out.")
    hidden = _columns_of_answers(task)
    asked = [_unanswered(item, hidden) for item in items]
    if n := sum(has_answer for _, has_answer in asked):
        came = f"{n} unlabelled inputs came with answers, which are" if n > 1 else "1 came with an answer, which is"
        task = replace(task, notes=(*task.notes, f"{came} not read"))
    examples = [input_of(given, task, number) for number, (given, _) in enumerate(asked, 1)]
    return _having_some(task, examples, "", "The unlabelled inputs")


def tidied(task: Task) -> Task:
    """Return a task without unlabelled inputs that are of train or are there twice, and notes on them.

    Tasks that were loaded come back as they are.
    """
    kept, notes = _apart(task, task.unlabelled)
    notes = [note for note in notes if note not in task.notes]
    return replace(task, unlabelled=kept, notes=(*task.notes, *notes)) if kept != task.unlabelled or notes else task


def _refuse_empty(file: Path, text: str) -> None:
    if is_missing(text):
        raise UserError(
            f"{file} must hold at least one unlabelled input, but it is empty; write one a line, or leave the file out."
        )


def _columns_of_answers(task: Task) -> frozenset[str]:
    """Return the columns, in lower case, that hold answers in rows like those of a task."""
    own = {task.columns.get(field, field).lower() for field in ANSWERED}
    return (OF_ANSWERS | own) - {task.columns.get(field, field).lower() for field in ASKED}


def _without_answers(table: Table, task: Task) -> Table:
    """Return a table without the columns that hold answers, with a note where there were some."""
    hidden = _columns_of_answers(task)
    columns = [c for c in table.columns if c.lower() in hidden]
    if any(map(_ends_with_answer, table.rows)):  # which is not read of inputs
        table = replace(table, notes=(*table.notes, f"answers that end conversations of '{table.short}' are not read"))
    rows = tuple(
        replace(row, values={c: v for c, v in row.values.items() if c.lower() not in hidden}) for row in table.rows
    )
    told = [c for c in columns if any(not is_missing(row.values.get(c)) for row in table.rows)]
    notes = (f"the answers in {', '.join(told)} of '{table.short}' are not read: its inputs are unlabelled",)
    return replace(table, rows=rows, notes=(*table.notes, *(notes if told else ())))


def _ends_with_answer(row: Row) -> bool:
    """Return whether the last message of a row's conversation is an answer."""
    last = [messages[-1] for c in LISTS if isinstance(messages := row.values.get(c), list) and messages]
    return any(ROLES.get(str(m.get("role", m.get("from"))).lower()) == "assistant" for m in last if isinstance(m, dict))


def _unanswered(given: Any, hidden: frozenset[str]) -> tuple[Any, bool]:
    """Return an input without the answer that it came with, and whether there was one."""
    if isinstance(given, Question):
        return given.answered(), False
    if isinstance(given, Example):
        return replace(given, output=""), bool(given.output)
    if not isinstance(given, Mapping):
        return given, False
    kept = {column: value for column, value in given.items() if str(column).lower() not in hidden}
    return kept, any(not is_missing(value) for column, value in given.items() if column not in kept)


def _having_some(task: Task, examples: Sequence[Example], of: str, what: str) -> Task:
    """Return a task with more unlabelled inputs, of which at least one must be new.

    Args:
        task: The task.
        examples: The inputs.
        of: Where they are from, as notes say it after "unlabelled inputs".
        what: What an error calls that.
    """
    taken = {e.id for e in (*task.train, *task.test, *task.worked)}
    found, notes = _apart(task, [_named(e, taken) for e in examples], of)
    if not (found or task.unlabelled):
        raise UserError(
            f"{what} must hold an input that is not in train, where its answer is known; all {len(examples)} are. "
            "Give others, or leave them out."
        )
    known = set(map(duplicate_key, task.unlabelled))
    new = tuple(q for q in found if duplicate_key(q) not in known)
    if n := len(found) - len(new):
        notes.append(f"{_are(n, of)} left out, as the task has {'them' if n > 1 else 'it'} already")
    return replace(task, unlabelled=(*task.unlabelled, *new), notes=tuple(dict.fromkeys((*task.notes, *notes))))


def _named(example: Example, taken: set[str]) -> Question:
    """Return what is asked under a name made of it, which no other example of the task has."""
    name = f"unlabelled-{digest(example.input, example.context, example.choices)[:16]}"
    while name in taken:
        name += "+"
    return replace(example.question, id=name)


def _apart(task: Task, questions: Iterable[Question], of: str = "") -> tuple[tuple[Question, ...], list[str]]:
    """Return each of the questions that train does not ask, once, and notes."""
    train, test = ({duplicate_key(e) for e in split} for split in (task.train, task.test))
    kept: dict[tuple[str, ...], Question] = {}
    n_train = n_again = n_test = 0
    for question in questions:
        if (key := duplicate_key(question)) in train:
            n_train += 1
        elif key in kept:
            n_again += 1
        else:
            kept[key] = question
            n_test += key in test
    notes = []
    if n_train:
        whose = "them with their answers" if n_train > 1 else "it with its answer"
        notes.append(f"{_are(n_train, of)} left out, as train has {whose}")
    if n_again:
        notes.append(f"{_are(n_again, of)} left out, as an earlier one asks the same")
    if n_test:
        notes.append(
            f"{_are(n_test, of)} asked in test too: recipes that use unlabelled inputs read them, without answers, and "
            "what is measured on test then says less of inputs that are new"
        )
    return tuple(kept.values()), notes


def _are(n: int, of: str) -> str:
    return f"{n} unlabelled inputs{of} are" if n > 1 else f"1 unlabelled input{of} is"
