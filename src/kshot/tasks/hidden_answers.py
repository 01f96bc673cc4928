"""Test rows without answers, as competitions and hidden test sets have them: they are said and left out."""

from kshot.tasks.columns import Layout
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import Row
from kshot.tasks.tables import Table

HIDDEN = "-1"  # the class of rows whose class is kept back


def without_hidden(test: Table, train: Table, layout: Layout) -> Table:
    """Return a table of test rows as it is, or empty and with a note if none of its rows has an answer."""
    answers = [_answer(row, layout) for row in test.rows]
    hidden = {HIDDEN} == set(answers) and HIDDEN not in (_answer(row, layout) for row in train.rows)
    are_other_rows = layout.names["input"] not in test.columns
    return test if (any(answers) and not hidden) or are_other_rows else test.without_rows(layout.names["output"])


def _answer(row: Row, layout: Layout) -> str:
    """Return what the row's output, or else its references, hold; "" if they hold nothing."""
    for field in ("output", "references"):
        value = row.values.get(layout.names.get(field, field))
        value = value.get("text") if isinstance(value, dict) and field == "references" else value
        if not is_missing(value):
            return str(value).strip()
    return ""
