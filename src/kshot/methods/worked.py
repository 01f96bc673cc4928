"""Worked examples of a task: those beside its stream whose explanations show how answers are found."""

from collections.abc import Mapping, Sequence
from typing import Any

from kshot.core.script import without_empty_lines
from kshot.core.types import Example, Task
from kshot.taskmodel.taskmodel import TaskModel

_AROUND = 16  # tokens that a layout writes around an example at most

Kept = tuple[Mapping[str, Any], ...]


def kept_worked(model: TaskModel) -> Kept:
    """Return the task's worked examples, as JSON: the first of them that leave half of the model's context free."""
    kept, room, count = [], model.model.max_tokens // 2, model.model.count_tokens
    for e in model.task.worked:
        reason = without_empty_lines(e.explanation or "")
        room -= sum(map(count, (e.context or "", e.input, reason, e.output))) + _AROUND
        if room < 0:
            break
        kept.append({"id": e.id, "input": e.input, "output": e.output, "explanation": reason, "context": e.context})
    return tuple(kept)


def with_worked(kept: Kept, shown: Sequence[Example]) -> tuple[Example, ...]:
    """Return what is shown, after the worked examples where none of it has a reason."""
    if any(e.explanation for e in shown):
        return tuple(shown)
    return (*(Example(**about) for about in kept), *shown)


def lacks_reasons(task: Task, *, worked: bool) -> bool:
    """Return whether no example that can be shown has an explanation."""
    return not any(e.explanation for e in (*task.train, *(task.worked if worked else ())))
