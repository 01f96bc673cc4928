"""Files at random: each is read as it was meant, or refused in a sentence; never a traceback, never another answer."""

import io
import shutil
from random import Random
from typing import Any

import pytest

from conftest import plain_prompt
from fuzz_files import REFUSED, Written, as_written, write_source
from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.tasks.inputs import read_inputs
from kshot.tasks.load import load_task
from kshot.tasks.missing import is_missing, trimmed
from kshot.tasks.rows import BadRowsError
from kshot.tasks.validate import validate


def read(written: Written, *, skip_bad_rows: bool = False) -> Task | UserError:
    """Return the task, after all that is done with it before a model is asked; or why it is refused."""
    try:
        task = load_task(written.source, columns=written.columns, skip_bad_rows=skip_bad_rows)
    except UserError as error:
        return error
    assert validate(task).n_train == len(task.train)
    assert task.fingerprint
    for example in (*task.train, *task.test):
        assert plain_prompt(task, task.train[:1], example).segments
    return task


def is_as_written(meant: dict[str, Any], example: Example, task: Task) -> bool:
    """Return whether an example is what was written; white space around outputs and choices may be left out."""
    blanks_left_out = "blanks between a separator and a cell are left out" in task.notes
    context = meant.get("context") or ""
    if "earlier" in meant:
        own = meant["system"] if meant["system"] != task.instruction else ""
        context = "\n\n".join([*meant.get("before", ()), *[own] * bool(own), *meant["earlier"]])
    context = "" if is_missing(context) else context.lstrip(" ") if blanks_left_out else context
    return (
        (example.input == meant["input"] or (blanks_left_out and example.input == meant["input"].lstrip(" ")))
        and trimmed(example.output) in (trimmed(meant["output"]), trimmed(as_written(meant)["output"]))
        and (example.context or "").lstrip(" " * blanks_left_out) == context
        and [*map(trimmed, example.choices)] == [*map(trimmed, meant.get("choices", ()))]
    )


def check(written: Written, task: Task) -> None:
    """All examples are what was written, and outputs that stand for something else are read as that."""
    assert written.rows is not None
    assert len(task.train) == len(written.rows)
    systems = {row.get("system", "") for row in written.rows}
    assert "system" not in written.rows[0] or len(systems) > 1 or task.instruction == systems.pop()
    for meant, example in zip(written.rows, task.train, strict=True):
        assert is_as_written(meant, example, task), (meant, example)
    if "written" in written.rows[0] and trimmed(task.train[0].output) != trimmed(written.rows[0]["output"]):
        assert not any("read as the text of that choice" in note or "after '####'" in note for note in task.notes)


def check_skipping(written: Written, strict: Task | UserError) -> None:
    """Without bad rows there are the others, in their order; the note counts and names what is left out."""
    task = read(written, skip_bad_rows=True)
    if isinstance(strict, Task):
        assert isinstance(task, Task)
        assert (task.fingerprint, task.notes) == (strict.fingerprint, strict.notes)
        assert not written.bad
        return
    if written.bad:
        n_rows = len(written.rows or ()) + len(written.bad)
        assert isinstance(strict, BadRowsError)
        assert isinstance(task, Task) == (len(written.bad) * 2 <= n_rows), task
        if isinstance(task, Task):
            assert tuple(row.number for row in strict.rows) == written.bad
            check(written, task)
    if not isinstance(task, Task):
        return
    assert isinstance(strict, BadRowsError)
    left_out = [note for note in task.notes if " that cannot be used " in note]
    assert [note.split()[0] for note in left_out] == [str(len(strict.rows))]
    assert all(f"{row.number}" in left_out[0] for row in strict.rows[:1])
    if written.rows is not None:
        assert len(task.train) + len(strict.rows) >= len(written.rows)
        rows = iter(written.rows)
        for example in task.train:
            assert any(is_as_written(meant, example, task) for meant in rows), example


def check_inputs(written: Written, task: Task) -> None:
    """The same file, read to be answered, asks what the task asks, if no row of it was left out."""
    inputs, _ = read_inputs(str(written.source), io.BytesIO(), task=task)
    if len(inputs) == len(task.train):
        for asked, example in zip(inputs, task.train, strict=True):
            assert (asked.input, asked.context) == (example.input, example.context)
            assert [*map(trimmed, asked.choices)] == [*map(trimmed, example.choices)]


def run(folder, seeds) -> tuple[int, int]:
    """Return how many sources there were of which it is known what they hold, and how many of these were read."""
    n_known = n_read = 0
    for seed in seeds:
        place = folder / "now"
        place.mkdir()
        written = write_source(place, Random(seed))
        about = f"seed {seed}: {written.like}"
        try:
            task = read(written)
            check_skipping(written, task)
            if written.rows is not None and not written.bad:
                n_known += 1
                n_read += isinstance(task, Task)
                if isinstance(task, Task):
                    check(written, task)
                assert not written.plain or isinstance(task, Task), task
                assert not (written.like.startswith(REFUSED) and isinstance(task, Task))
            if written.source.is_file() and isinstance(task, Task):
                check_inputs(written, task)
        except Exception as error:
            error.add_note(about)
            raise
        shutil.rmtree(place)
    return n_known, n_read


def test_files_are_read_as_meant_or_refused(tmp_path):
    n_known, n_read = run(tmp_path, range(150))
    assert n_read > n_known * 0.6


@pytest.mark.slow
def test_three_thousand_files_are_read_as_meant_or_refused(tmp_path):
    n_known, n_read = run(tmp_path, range(3_000))
    assert n_read > n_known * 0.6
