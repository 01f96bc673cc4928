"""The verb `init`: write a task folder from whatever holds a task, with a `task.json` that says what was guessed.

The folder is the same task: what `Task.load` makes of it is compared with what it made of the source before anything is
written to its place. So what is only likely - an order of the labels, an instruction - stands in `task.json` under
`drafts`, which is not read: whoever agrees moves it one level up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kshot.core.errors import UserError
from kshot.core.json_text import to_json
from kshot.core.label_sets import read
from kshot.core.paths import path_of
from kshot.core.types import KINDS, Example, Kind, Question, Rows, Task
from kshot.store.files import write_folder
from kshot.tasks.load import DEFAULT_METRIC, load_task
from kshot.tasks.order import METRICS_OF_ORDER, likely_order
from kshot.tasks.rows import FIELDS
from kshot.tasks.tables import READ_SUFFIXES
from kshot.tasks.unlabelled import UNLABELLED, UNLABELLED_SUFFIXES
from kshot.tasks.worked import WORKED

CARD = "task.json"
SPLITS = ("train", "test", WORKED, "unlabelled")
KIND_GUESSED, LOOK_ORDERED = "kind is guessed", "the labels look ordered"  # how notes begin, said in other words here
_WIDE = 100  # characters
_MOST_LABELS = 20  # that a draft of an instruction names
_SAME = ("kind", "train", "test", "labels", "metrics", "instruction", "positive_label", "worked", "unlabelled",
         "ordered", "answer")  # fmt: skip
_SAME_OF_CHOICES = ("choices_in_input", "letter_form")  # which say something of multiple choice alone


@dataclass(frozen=True)
class NewTask:
    """A task folder that was written.

    Attributes:
        folder: Where it is.
        task: What it holds, as it is loaded.
        guessed: What was guessed and how to correct it, a sentence each; also in its `task.json`.
    """

    folder: Path
    task: Task
    guessed: tuple[str, ...]

    @property
    def n_rows(self) -> dict[str, int]:
        """How many rows each file of it has."""
        return {split: len(rows) for split in SPLITS if (rows := getattr(self.task, _field(split)))}

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot init --json` prints."""
        about = {"kind": self.task.kind, "labels": list(self.task.labels), "metrics": list(self.task.metrics)}
        return {"folder": str(self.folder), **about, "rows": self.n_rows, "guessed": list(self.guessed)}


def init(
    folder: str | Path,
    source: str | Path | Rows,
    *,
    test: str | Path | Rows | None = None,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    order: Sequence[Any] | None = None,
    skip_bad_rows: bool = False,
    overwrite: bool = False,
) -> NewTask:
    """Write a task folder: train.jsonl, test.jsonl if there are test rows, and a task.json that says what was guessed.

    Args:
        folder: A new or empty one.
        source: Whatever `Task.load` reads: a file, a folder, a dataset of the hub, a builtin task, rows in Python.
        test: As for `Task.load`, as are `columns`, `kind`, `order` and `skip_bad_rows`.
        columns: Field to column.
        kind: What the task is.
        order: The labels from the lowest to the highest.
        skip_bad_rows: Leave out rows that cannot be used.
        overwrite: Replace a task folder that is there; one that holds anything else is never replaced.

    Raises:
        UserError: As `Task.load`; the folder is there; or the rows would be read otherwise from it.
        StorageError: It cannot be written.
    """
    place = path_of(folder)
    _check_place(place, overwrite=overwrite)
    _check_sources(place, source, test)
    how: dict[str, Any] = {"columns": columns, "kind": kind, "order": order, "skip_bad_rows": skip_bad_rows}
    task = load_task(source, test=test, **how)
    guessed = _guesses(task, kind_is_said=kind is not None)
    files, left_out = _files(task, guessed)
    guessed += left_out
    if left_out:
        files[CARD] = _card(task, guessed)
    write_folder(place, files, replaces=overwrite)
    return NewTask(place, replace(task, name=place.resolve().name), guessed)


def _check_sources(place: Path, *sources: str | Path | Rows | None) -> None:
    """Refuse a single file of the folder that is replaced: the others would be lost."""
    inside = {file.resolve() for file in place.iterdir()} if place.is_dir() else set()
    for source in sources:
        if isinstance(source, str | Path) and path_of(source).resolve() in inside:
            raise UserError(
                "--from must not name one file of the folder that is replaced, whose others would be lost; got "
                f"{source}. Give {place}, which is read as a whole, or write to another folder."
            )


def _check_place(place: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is there already, unless it is to be replaced and is a task's."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not place.is_dir():
        raise UserError(f"{place} must be a folder, new or empty; it is a file. Name another one.")
    known = {
        f"{split}{suffix}" for split in (*SPLITS, *UNLABELLED) for suffix in (*READ_SUFFIXES, *UNLABELLED_SUFFIXES)
    }
    others = [p.name for p in sorted(place.iterdir()) if p.is_dir() or p.name.lower() not in {*known, CARD}]
    if overwrite and not others:
        return
    if overwrite:
        raise UserError(
            f"--overwrite replaces folders that hold a task alone; {place} holds {others[0]} too, which would be lost. "
            "Name another folder."
        )
    raise UserError(
        f"{place} must be a new or empty folder; it holds {next(p.name for p in sorted(place.iterdir()))}. Name "
        "another one, or replace the task in it with --overwrite (in Python overwrite=True)."
    )


def _files(task: Task, guessed: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the files that are read as the task, and a note where other columns had to be left out for that.

    Raises:
        UserError: There are none: its rows would be read otherwise.
    """
    differing: list[str] = []
    for keeps_others in (True, False):
        files = {CARD: _card(task, guessed)}
        for split in SPLITS:
            if rows := getattr(task, _field(split)):
                files[f"{split}.jsonl"] = "".join(to_json(_row(row, task, keeps_others)) + "\n" for row in rows)
        expected = task if keeps_others else _without_others(task)
        differing = _differences(expected, files)
        if not differing:
            others = () if keeps_others else ("other columns than those used are left out, as they have fields' names",)
            return files, others
    raise UserError(
        f"'{task.name}' cannot be written as a folder that is read as the same task: {', '.join(differing)} would "
        "differ. Give the task as it is, or say with --columns and --kind how its rows are to be read."
    )


def _differences(task: Task, files: Mapping[str, str]) -> list[str]:
    with TemporaryDirectory(prefix="kshot-") as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, "utf-8")
        try:
            found = load_task(folder)
        except UserError:
            return ["its rows"]
    fields = (*_SAME, *(_SAME_OF_CHOICES if task.kind == "multiple_choice" else ()))
    return [name for name in fields if getattr(found, name) != getattr(task, name)]


def _field(split: str) -> str:
    return "worked" if split == WORKED else split


def _without_others(task: Task) -> Task:
    rows = {f: tuple(replace(e, meta={}) for e in getattr(task, f)) for f in map(_field, SPLITS)}
    return replace(task, **rows)


def _row(example: Example | Question, task: Task, keeps_others: bool) -> dict[str, Any]:
    """Return an example as a row, with its own id, and what else is known of it."""
    values = {name: getattr(example, name, None) for name in ("id", *(f for f in FIELDS if f != "id"))}
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v}
    if task.is_multi_label and isinstance(example, Example):
        fields["output"] = list(read(example.output))
    return fields | {k: v for k, v in example.meta.items() if keeps_others and k not in FIELDS}


def _card(task: Task, guessed: Sequence[str]) -> str:
    """Return the text of `task.json`."""
    labels: dict[str, Any] = {"order": task.labels} if task.ordered else {"labels": task.labels} if task.labels else {}
    if task.ordered and task.answer != "most-probable":
        labels["answer"] = task.answer
    if task.kind == "multiple_choice":
        labels["choices_in_input"] = task.choices_in_input
    if task.positive_label:
        labels["positive_label"] = task.positive_label
    metrics = {} if _has_usual_metrics(task) else {"metrics": task.metrics}
    drafts = {"drafts": found} if (found := _drafts(task)) else {}
    said = {"kind": task.kind, **labels, **metrics, "instruction": task.instruction, **drafts, "guessed": guessed}
    return "{\n" + ",\n".join(f"  {to_json(key)}: {_written(value)}" for key, value in said.items()) + "\n}\n"


def _written(value: Any) -> str:
    """Return a value of the card as JSON: short ones on a line, so that labels stand side by side."""
    text = to_json(value)
    return text if len(text) <= _WIDE else to_json(value, indent=2).replace("\n", "\n  ")


def _has_usual_metrics(task: Task) -> bool:
    return task.metrics == (METRICS_OF_ORDER if task.ordered else (DEFAULT_METRIC[task.kind],))


def _drafts(task: Task) -> dict[str, Any]:
    """Return what a user may want to say of the task, and nobody has said."""
    order = likely_order(task.labels) if task.kind == "classification" and not task.ordered else None
    instruction = "" if task.instruction else _instruction(task)
    return ({"order": order} if order else {}) | ({"instruction": instruction} if instruction else {})


def _instruction(task: Task) -> str:
    context = " by the passage" if any(e.context for e in task.train) else ""
    return {
        "classification": f"Say which label the text has{_among(task)}.",
        "multi_label": f"Say which labels the text has{_among(task)}; it may have several, or none.",
        "multiple_choice": f"Choose the right answer{context}.",
        "qa": f"Answer the question{context} in a few words.",
        "math": "Solve the problem, and answer with a number.",
        "generation": "Write the output that belongs to the input.",
        "parsing": "Write the input in the form that the examples show.",
    }[task.kind]


def _among(task: Task) -> str:
    return f": {', '.join(task.labels)}" if len(task.labels) <= _MOST_LABELS else ""


def _guesses(task: Task, *, kind_is_said: bool) -> tuple[str, ...]:
    """Return what was guessed, and how to correct it, a sentence each."""
    drafts, here, notes = _drafts(task), f"in {CARD}", task.notes
    found = []
    if any(note.startswith(KIND_GUESSED) for note in notes) or task.kind == "multiple_choice" and not kind_is_said:
        found.append(f"kind: {task.kind}; another one of {', '.join(KINDS)} is written as 'kind' {here}")
    found += [f"rows: {note}" for note in notes if not note.startswith((KIND_GUESSED, LOOK_ORDERED))]
    if task.labels and not task.ordered:
        found.append(f"labels: the {len(task.labels)} of the rows; add those that may come later to 'labels' {here}")
    if "order" in drafts:
        found.append(
            f"order: the labels look ordered, {' < '.join(drafts['order'])}; if they are, move 'order' {here} from "
            "'drafts' one level up, and distances count"
        )
    if "instruction" in drafts:
        found.append(
            f"instruction: none; the draft {here} is \"{drafts['instruction']}\"; write a better one as 'instruction'"
        )
    if _has_usual_metrics(task):
        found.append(f"metrics: {', '.join(task.metrics)}, as usual; others are written as 'metrics' {here}, a list")
    if not task.test:
        found.append("test rows: none; rows that are held out go into a file test.jsonl, or are given with --test")
    return tuple(found)
