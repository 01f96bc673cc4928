"""A run that is interrupted or killed at any moment ends, once resumed, as if nothing had happened.

Three ways to stop it: an exception at every pack, SIGKILL at chosen events in forked processes (which cost a fraction
of a second, as torch is imported once), and SIGKILL of the command line at random times.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.progress import Silence
from kshot.core.types import Task
from kshot.runs.store import SqliteStore

SETTINGS = {"recipes": "zero-shot,random,bm25,all-past,majority", "shots": 6, "limit": 30}
ARGS = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """More rows than the limit; the prompts of `all-past` grow to several packs."""
    return write_task(tmp_path_factory.mktemp("tasks") / "long", labelled_rows(40))


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory, recorded):
    """An undisturbed run: what it recorded, and how many requests it scored."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = kshot.adapt(Task.load(task), "tiny", out=folder, **SETTINGS)
    return recorded(folder), run.work.scored


def committed(folder: Path) -> int:
    """Return how many scores are in the store of a run."""
    if not (folder / "store.sqlite").exists():
        return 0
    store = SqliteStore(folder / "store.sqlite")
    try:
        return store.count()
    finally:
        store.close()


def check_nothing_is_half_written(folder: Path) -> None:
    """What stands in a run folder under its own name must be whole."""
    if (folder / "manifest.json").exists():
        assert json.loads((folder / "manifest.json").read_text())["format"] == 1
    if (folder / "best").exists():
        assert len(kshot.load(folder).predict(["the cat and the dog"])) == 1
    if (folder / "results.json").exists():
        n_done = len(json.loads((folder / "results.json").read_text())["results"])
        assert len((folder / "samples.jsonl").read_text().splitlines()) == n_done * SETTINGS["limit"]
        # Between two renames a finished run that is adapted again has its model under a hidden name only.
        assert (folder / "best").exists() or list(folder.glob(".best.*.old/kshot.json"))


class InterruptedError(BaseException):
    """Like KeyboardInterrupt, nothing that code would catch by accident."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_pack_can_be_the_last(task, whole, tmp_path, recorded, monkeypatch, when):
    """Stop at the first new commit, then at the second, and so on, in one folder; a committed pack is never rerun."""
    loaded, model, folder = Task.load(task), kshot.load_model("tiny"), tmp_path / "run"
    left = 0

    def stopping(method):
        def stopped(self, *args):
            nonlocal left
            left -= len(args[-1]) > 0  # packs that are run again only for what follows commit nothing
            if left == 0 and args[-1] and when == "before":
                raise InterruptedError
            method(self, *args)
            if left == 0 and args[-1]:
                raise InterruptedError

        return stopped

    n_stops = 0
    with monkeypatch.context() as patch:
        for name in ("put", "put_predictions"):
            patch.setattr(SqliteStore, name, stopping(getattr(SqliteStore, name)))
        while True:
            left = 1 + (n_stops % 2 if when == "after" else 1)
            before = committed(folder)
            try:
                run = kshot.adapt(loaded, model, out=folder, **SETTINGS)
            except InterruptedError:
                n_stops += 1
                assert not (folder / "results.json").exists()
            else:
                break
    assert n_stops > 10
    assert run.work.scored == whole[1] - before
    assert committed(folder) == whole[1]
    assert recorded(folder) == whole[0]


class KillingProgress(Silence):
    """Kills this process when it has been told of progress."""

    def __init__(self, event):
        self.event = event

    def advance(self, n):
        self.event()


def adapt_and_die(task: Path, folder: Path, n: int) -> None:
    """Adapt, and kill this process at the n-th event: a step of progress or a file opened, renamed or removed."""
    seen = 0

    def event() -> None:
        nonlocal seen
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, args: tuple) -> None:
        if name in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and str(folder) in str(args[0]):
            event()

    sys.addaudithook(audit)
    kshot.adapt(Task.load(task), "tiny", out=folder, progress=KillingProgress(event), **SETTINGS)


@pytest.fixture(scope="module")
def killed(task):
    """Run `adapt_and_die` in a fresh process; return whether it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kshot.adaptation", "kshot.engine.language_model", "kshot.models.tiny", "bm25s"])

    def killed(folder: Path, n: int) -> bool:
        process = context.Process(target=adapt_and_die, args=(task, folder, n))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    return killed


def test_killed_again_and_again(killed, whole, tmp_path, recorded):
    """Kill at seeded random events, resuming in between; later and later, so that it ends."""
    rng, folder, stored, latest = random.Random(0), tmp_path / "run", [0], 4
    while killed(folder, rng.randint(1, latest)):
        latest += 4
        stored.append(committed(folder))
        check_nothing_is_half_written(folder)
    assert stored == sorted(stored)
    assert len(set(stored)) > 5
    assert recorded(folder) == whole[0]
    assert committed(folder) == whole[1]


def test_killed_while_the_results_are_written(killed, task, whole, tmp_path, recorded):
    """Kill a finished run that is adapted again at each of its events: what is replaced is there, old or new."""
    folder = tmp_path / "run"
    kshot.adapt(Task.load(task), "tiny", out=folder, **SETTINGS)
    n = 1
    while killed(folder, n):
        check_nothing_is_half_written(folder)
        assert (folder / "results.json").exists()
        n += 1
    assert n > 10
    assert recorded(folder) == whole[0]


def test_the_command_line_killed_at_random_times(task, whole, tmp_path, recorded, run_cli):
    rng, folder = random.Random(1), tmp_path / "run"
    command = ["adapt", str(task), "--model", "tiny", "--out", str(folder), *ARGS]
    for wait_for in ("nothing", "store.sqlite"):
        process = subprocess.Popen(
            [sys.executable, "-m", "kshot.cli.main", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        while wait_for != "nothing" and not (folder / wait_for).exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (-signal.SIGKILL, b"")
        if folder.exists():
            check_nothing_is_half_written(folder)
    before = committed(folder)
    printed = run_cli(*command, "--json").json
    assert printed["work"]["scored"] == whole[1] - before
    assert recorded(folder) == whole[0]
