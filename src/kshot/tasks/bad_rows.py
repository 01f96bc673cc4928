"""Rows that cannot be used: all are found before it is said, or the others are read as if they were not there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kshot.core.errors import UserError
from kshot.tasks.rows import BadRow, BadRowsError
from kshot.tasks.tables import Table

MAX_SHARE = 0.5  # of a file: where more rows are bad, it is likely the file that is read in a wrong way
MAX_NAMED = 5


T = TypeVar("T")


def without_bad_rows(
    make: Callable[[list[Table]], T], tables: Sequence[Table], bad: Sequence[BadRow] = (), *, skip: bool
) -> tuple[T, list[BadRow]]:
    """Make something of tables, time and again without the rows that were refused, until none is.

    So nothing that is guessed from the rows depends on bad ones: a task is the one that the files would be without
    these rows.

    Args:
        make: Reads the rows; raises BadRowsError for those that cannot be used.
        tables: Train rows, then test rows; or rows to be answered.
        bad: Rows that are none, as their file was read.
        skip: Go on without bad rows, at most half of each file.

    Returns:
        What was made, and the rows that were left out.

    Raises:
        BadRowsError: With all bad rows, unless they are skipped; or they are too many.
        UserError: Whatever else is wrong with the rows.
    """
    left, found = list(tables), list(bad)
    sizes = {t.source: len(t.rows) + sum(row.source == t.source for row in bad) for t in tables}
    places = {source: i for i, source in enumerate(sizes)}
    while True:
        found.sort(key=lambda row: (places.get(row.source, 0), row.number))
        _refuse_too_many(found, sizes)
        try:
            made = make(left)
        except BadRowsError as error:
            found += error.rows
            gone = {(row.source, row.number) for row in error.rows}
            left = [replace(t, rows=tuple(r for r in t.rows if (r.source, r.number) not in gone)) for t in left]
            continue
        except UserError:
            if skip or not found:
                raise
        else:
            if skip or not found:
                return made, found
        them = "it" if len(found) == 1 else "them"
        raise BadRowsError(found, f"--skip-bad-rows (in Python skip_bad_rows=True) goes on without {them}.")


def _refuse_too_many(found: Sequence[BadRow], sizes: Mapping[str, int]) -> None:
    for source, n_rows in sizes.items():
        n_bad = sum(row.source == source for row in found)
        if n_bad > MAX_SHARE * n_rows:
            counted = (
                f"{n_bad} of the {n_rows} rows of {source} are like this, too many to leave out; correct them, or say "
                "with --columns and --kind how the file is to be read."
            )
            raise BadRowsError(found, counted if n_bad > 1 else "")


def left_out(rows: Sequence[BadRow]) -> tuple[str, ...]:
    """Return the note on rows that were skipped."""
    if not rows:
        return ()
    numbers: dict[str, list[str]] = {}
    for row in rows:
        numbers.setdefault(row.source, []).append(str(row.number))
    places = [
        f"{source} row{'s' * (len(those) > 1)} {', '.join(those[:MAX_NAMED])}{', …' if len(those) > MAX_NAMED else ''}"
        for source, those in numbers.items()
    ]
    n_rows = f"{len(rows)} rows that cannot be used are" if len(rows) > 1 else "1 row that cannot be used is"
    return (f"{n_rows} left out: {'; '.join(places)}; the first: {rows[0].text}",)
