"""Worked examples: a file `cot` beside train, whose rows have an explanation that shows how the answer is found."""

from collections.abc import Sequence

from kshot.core.types import Example
from kshot.tasks.rows import Row
from kshot.tasks.validate import duplicate_key

WORKED = "cot"  # what the file is called, and its examples


def check_worked(row: Row, example: Example) -> None:
    """Refuse a row that has no explanation.

    Raises:
        BadRowsError: With the row.
    """
    if not example.explanation:
        row.fail("a worked example must have an 'explanation', which says how its answer is found; add it.")


def apart(
    worked: Sequence[Example], train: Sequence[Example], test: Sequence[Example]
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Return the worked examples that ask none of the task's own questions, and notes on them.

    What is shown with its answer would be predicted.
    """
    asked = {duplicate_key(e) for e in (*train, *test)}
    kept = tuple(e for e in worked if duplicate_key(e) not in asked)
    notes = []
    if kept:
        n = f"{len(kept)} worked examples" if len(kept) > 1 else "1 worked example"
        notes.append(f"{n} of '{WORKED}' can be shown with the reasons for their answers (composer=reason-first)")
    if n_left := len(worked) - len(kept):
        rows = f"{n_left} rows of '{WORKED}' ask" if n_left > 1 else f"1 row of '{WORKED}' asks"
        notes.append(f"{rows} what a row of train or test asks, and would tell its answer: left out")
    return kept, tuple(notes)
