"""The test rows of a task that an adapted model is asked: of its own kind and labels, and written as its own."""

from dataclasses import replace

from kshot.core.errors import UserError
from kshot.core.label_sets import read
from kshot.core.types import Example, Task
from kshot.measures.metrics import check_references
from kshot.measures.samples import primary_metric
from kshot.tasks.built import check_examples, check_form
from kshot.tasks.labels import trimmed_examples
from kshot.tasks.order import in_learnt_order


def asked_rows(task: Task, ours: Task, *, limit: int | None = None) -> Task:
    """Return a task with the test rows that are asked.

    Args:
        task: Whose rows they are.
        ours: What the model has learnt.
        limit: Only the first so many.

    Raises:
        UserError: No test rows, or another kind, or labels that the model does not know.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be 1 or more; got {limit}.")
    check_form(task)
    rows = task.test[:limit]
    if not rows:
        raise UserError(f"evaluate needs test rows; '{task.name}' has none. Give a folder with a file test.jsonl.")
    if set(task.labels) - set(ours.labels) or task.kind != ours.kind:
        own, theirs = (" with the labels ".join(filter(None, (t.kind, ", ".join(t.labels)))) for t in (ours, task))
        raise UserError(
            f"The model answers {own}; '{task.name}' is {theirs}. Give test rows of its own task, or adapt again."
        )
    if task.kind == "multiple_choice" and task.choices_in_input != ours.choices_in_input:
        learnt, asked = ("letters" if t.choices_in_input else "the choices' text" for t in (ours, task))
        raise UserError(
            f"The model answers with {learnt}; the outputs of '{task.name}' are {asked}. Write them so, or adapt again."
        )
    task = in_learnt_order(task, ours)
    check_examples(task, rows, "test")
    if task.kind == "multiple_choice":
        (rows,), _ = trimmed_examples([rows])  # as choices of all inputs are
    if task.letter_form != ours.letter_form:
        rows = tuple(_renamed(row, task, ours) for row in rows)
    for row in rows:
        check_references(primary_metric(task), row.id, row.accepted)
        given = read(row.output) if task.is_multi_label else (row.output,)
        if odd := [] if task.is_open else [one for one in given if one not in ours.candidates(row)]:
            known = ", ".join(ours.candidates(row))
            raise UserError(
                f"Each output must be one that the model can give ({known}); of '{row.id}' it is '{odd[0]}'. "
                "Correct it, or leave the row out."
            )
    return replace(task, test=rows)


def _renamed(row: Example, task: Task, ours: Task) -> Example:
    """Return a row of `task` with its choice named as in our own task: "B" may be "(B)" there."""
    names = dict(zip(task.candidates(row), ours.candidates(row), strict=True))
    references = tuple(names.get(text, text) for text in row.references)
    return replace(row, output=names.get(row.output, row.output), references=references)
