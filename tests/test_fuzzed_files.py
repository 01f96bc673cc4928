"""Files at random: each is read as it was meant, or refused in a sentence; never a traceback, never another answer."""

import io
import shutil
from random import Random

import pytest

from conftest import plain_prompt
from fuzz_files import REFUSED, Written, write_source
from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.tasks.inputs import read_inputs
from kshot.tasks.load import load_task
from kshot.tasks.missing import is_missing, trimmed
from kshot.tasks.validate import validate


def read(written: Written) -> Task | str:
    """Return the task, after all that is done with it before a model is asked; or why it is refused."""
    try:
        task = load_task(written.source, columns=written.columns)
    except UserError as error:
        return str(error)
    assert validate(task).n_train == len(task.train)
    assert task.fingerprint
    for example in (*task.train, *task.test):
        assert plain_prompt(task, task.train[:1], example).segments
    return task


def check(written: Written, task: Task) -> None:
    """Each example is what was written; white space around outputs and choices may be left out."""
    assert written.rows is not None
    assert len(task.train) == len(written.rows)
    blanks_left_out = "blanks between a separator and a cell are left out" in task.notes
    systems = {row.get("system", "") for row in written.rows}
    assert "system" not in written.rows[0] or len(systems) > 1 or task.instruction == systems.pop()
    for meant, example in zip(written.rows, task.train, strict=True):
        context = meant.get("context") or ""
        if "earlier" in meant:
            own = meant["system"] if meant["system"] != task.instruction else ""
            context = "\n\n".join([*meant.get("before", ()), *[own] * bool(own), *meant["earlier"]])
        assert example.input == meant["input"] or (blanks_left_out and example.input == meant["input"].lstrip(" "))
        assert trimmed(example.output) == trimmed(meant["output"])
        context = "" if is_missing(context) else context.lstrip(" ") if blanks_left_out else context
        assert (example.context or "").lstrip(" " * blanks_left_out) == context
        assert [*map(trimmed, example.choices)] == [*map(trimmed, meant.get("choices", ()))]


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
            if written.rows is not None:
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
