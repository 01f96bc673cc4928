"""A run that is interrupted or killed at any moment ends, once resumed, as if nothing had happened.

Three ways to stop it: an exception at every pack, SIGKILL at chosen events in forked processes, and SIGKILL of the
command line at random times.
"""

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.core.models import LanguageModel
from kshot.core.types import Example, Task
from kshot.engine.generation import generate_packed
from kshot.models.hf import Backbone
from kshot.store.run_folder import FORMAT
from kshot.store.scores import SqliteStore

SETTINGS = {"recipes": "zero-shot,random,bm25,all-past,majority", "shots": 6, "limit": 30}
ARGS = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """More rows than the limit; the prompts of `all-past` grow to several packs."""
    return write_task(tmp_path_factory.mktemp("tasks") / "long", labelled_rows(40))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


@pytest.fixture(scope="module")
def whole(task, tiny, tmp_path_factory, recorded):
    """An undisturbed run: what it recorded, and how many requests it scored."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = kshot.adapt(Task.load(task), tiny, out=folder, **SETTINGS)
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


def check_nothing_is_half_written(folder: Path, model: LanguageModel) -> None:
    """What stands in a run folder under its own name must be whole."""
    if (folder / "manifest.json").exists():
        assert json.loads((folder / "manifest.json").read_text())["format"] == FORMAT
    if (folder / "best").exists():
        assert len(kshot.load(folder, model=model).predict(["the cat and the dog"])) == 1
    if (folder / "results.json").exists():
        n_rows = sum(row["n"] for row in json.loads((folder / "results.json").read_text())["leaderboard"])
        assert len((folder / "samples.jsonl").read_text().splitlines()) == n_rows
        assert (folder / "best").exists()


class Stopped(BaseException):
    """Like KeyboardInterrupt, nothing that code would catch by accident."""


FEWER = SETTINGS | {"recipes": "zero-shot,random,all-past,majority", "limit": 24}
LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("when", "settings"),
    [pytest.param("before", SETTINGS, marks=LONG), pytest.param("after", SETTINGS, marks=LONG), ("after", FEWER)],
    ids=["before", "after", "after-of-fewer"],
)
def test_every_pack_can_be_the_last(task, tiny, tmp_path, recorded, monkeypatch, when, settings):
    """Stop at the first new commit, then at the second, and so on, in one folder; a committed pack is never rerun."""
    loaded, folder = Task.load(task), tmp_path / "run"
    whole = kshot.adapt(loaded, tiny, out=tmp_path / "whole", **settings)
    left = 0

    def stopping(method):
        def stopped(self, *args):
            nonlocal left
            left -= len(args[-1]) > 0  # packs that are run again only for what follows commit nothing
            if left == 0 and args[-1] and when == "before":
                raise Stopped
            method(self, *args)
            if left == 0 and args[-1]:
                raise Stopped

        return stopped

    n_stops = 0
    with monkeypatch.context() as patch:
        for name in ("put", "put_record"):
            patch.setattr(SqliteStore, name, stopping(getattr(SqliteStore, name)))
        while True:
            left = 1 + (n_stops % 2 if when == "after" else 1)
            before = committed(folder)
            try:
                run = kshot.adapt(loaded, tiny, out=folder, **settings)
            except Stopped:
                n_stops += 1
                assert n_stops < 100, "a run that is resumed gets nowhere"
                assert not (folder / "results.json").exists()
            else:
                break
    assert n_stops > 10
    assert run.work.scored == whole.work.scored - before
    assert committed(folder) == whole.work.scored
    assert recorded(folder) == recorded(whole.folder)


OPEN = {"recipes": "random,bm25", "shots": 4, "limit": 24}


@pytest.fixture(scope="module")
def open_task():
    """Texts have to be written: those of 20 of the 24 rows for each recipe."""
    examples = [Example(row["input"], f"the {row['output']}", f"e{i}") for i, row in enumerate(labelled_rows(24))]
    return Task("open", "generation", tuple(examples), metrics=("exact_match",))


class Interrupter:
    """Stops at the n-th commit of a store, before or after it; remembers which texts were written and which kept."""

    def __init__(self, when, patch):
        self.when, self.left, self.stops = when, 0, []
        self.written, self.kept = [], []
        patch.setattr("kshot.engine.session.generate_packed", self.spy)
        for name in ("put", "put_texts", "put_record"):
            patch.setattr(SqliteStore, name, self.stopping(name, getattr(SqliteStore, name)))

    def spy(self, *args):
        for answers in generate_packed(*args):
            self.last = [answer.prompt for answer in answers]
            self.written += self.last
            yield answers

    def stopping(self, name, method):
        def stopped(store, *args):
            self.left -= len(args[-1]) > 0
            self.stop(name, self.when == "before" and len(args[-1]) > 0)
            method(store, *args)
            self.kept += self.last if name == "put_texts" else []
            self.stop(name, len(args[-1]) > 0)

        return stopped

    def stop(self, name, now):
        if now and self.left == 0:
            self.stops.append(name)
            raise Stopped


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_commit_of_an_open_task_can_be_the_last(open_task, tiny, tmp_path, recorded, monkeypatch, when):
    """Stop at commits of scores, texts and predictions, in one folder; no committed text is written again."""
    monkeypatch.setattr("kshot.engine.session._GROUP_ANSWERS", 6)  # several groups of texts in a recipe
    whole = kshot.adapt(open_task, tiny, out=tmp_path / "whole", **OPEN)
    with monkeypatch.context() as patch:
        at = Interrupter(when, patch)
        while True:
            at.left = 1 + (len(at.stops) % 2 if when == "after" else 1)
            try:
                run = kshot.adapt(open_task, tiny, out=tmp_path / "run", **OPEN)
            except Stopped:
                assert len(at.stops) < 100, "a run that is resumed gets nowhere"
                assert not (tmp_path / "run" / "results.json").exists()
            else:
                break
    assert set(at.stops) == {"put", "put_texts", "put_record"}
    assert at.stops.count("put_texts") >= 3
    assert len(at.kept) == len(set(at.kept)) == 40
    if when == "after":  # what was stopped before its commit has to be written again
        assert at.written == at.kept
    assert recorded(tmp_path / "run") == recorded(tmp_path / "whole")
    assert run.best.predict(["the cat"]) == whole.best.predict(["the cat"])
    for folder in ("run", "whole"):
        again = kshot.adapt(open_task, tiny, out=tmp_path / folder, **OPEN)
        assert again.work.scored == 0
        assert recorded(tmp_path / folder) == recorded(tmp_path / "whole")


@pytest.mark.slow
def test_what_is_committed_is_not_run_again(tiny, tmp_path, monkeypatch):
    """Forward passes of the parts of a run add up to those of a whole one, but for shared beginnings."""
    loaded = Task.load(write_task(tmp_path / "task", labelled_rows(90)))
    passes = []

    def spy(self, ids, *args, run=Backbone.packed_logits):
        passes.append(len(ids))
        return run(self, ids, *args)

    def n_passes(folder, stop_after=None):
        def put(self, rows, put=SqliteStore.put):
            put(self, rows)
            if len(passes) == stop_after:
                raise Stopped

        passes.clear()
        with monkeypatch.context() as patch, suppress(Stopped):
            patch.setattr(SqliteStore, "put", put)
            kshot.adapt(loaded, tiny, out=tmp_path / folder, recipes="zero-shot", limit=70)
        return len(passes)

    n_passes("warm-up")  # the trial of packing has passes of its own
    monkeypatch.setattr(Backbone, "packed_logits", spy)
    n = n_passes("whole")
    assert n >= 6
    for stop in range(1, n):
        assert n_passes(f"part-{stop}", stop_after=stop) == stop
        assert n_passes(f"part-{stop}") <= n - stop + 2
        assert n_passes(f"part-{stop}") == 0


@pytest.fixture(scope="module")
def killed(task):
    """Adapt in a fresh process that is killed at its n-th event; return whether it came to that."""
    command = [sys.executable, Path(__file__).with_name("adapt_and_die.py"), task, json.dumps(SETTINGS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:

        def killed(folder, n):
            print(json.dumps([str(folder), n]), file=forks.stdin, flush=True)
            status = int(forks.stdout.readline())
            assert status in (0, signal.SIGKILL)
            return status != 0

        yield killed


@pytest.mark.slow
def test_killed_again_and_again(killed, tiny, whole, tmp_path, recorded):
    """Kill at seeded random events, resuming in between; later and later, so that it ends."""
    rng, folder, stored, latest = random.Random(0), tmp_path / "run", [0], 4
    while killed(folder, rng.randint(1, latest)):
        latest += 10
        if rng.random() < 0.5:  # otherwise the next run itself is the first to open what was left
            stored.append(committed(folder))
        check_nothing_is_half_written(folder, tiny)
    assert stored == sorted(stored)
    assert len(set(stored)) > 3
    assert recorded(folder) == whole[0]
    assert committed(folder) == whole[1]


@pytest.mark.slow
def test_killed_while_the_results_are_written(killed, task, tiny, whole, tmp_path, recorded):
    """Kill a finished run that is adapted again at a seventh of its events: what is replaced is there, old or new."""
    folder = tmp_path / "run"
    kshot.adapt(Task.load(task), tiny, out=folder, **SETTINGS)
    n = 1
    while killed(folder, n):
        check_nothing_is_half_written(folder, tiny)
        assert (folder / "results.json").exists()
        n += 7  # an odd step meets both starts and ends of calls
    assert n > 10
    assert recorded(folder) == whole[0]


@pytest.mark.slow
def test_the_command_line_killed_at_random_times(task, tiny, whole, tmp_path, recorded, run_cli):
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
            check_nothing_is_half_written(folder, tiny)
    before = committed(folder)
    printed = run_cli(*command, "--json").json
    assert printed["work"]["scored"] == whole[1] - before
    got, expected = recorded(folder), deepcopy(whole[0])
    repeat = f"kshot adapt {task} --model tiny {' '.join(ARGS)}"
    assert expected["results.json"][0]["repeat"] != repeat  # that one was made in Python
    expected["results.json"][0]["repeat"] = repeat
    assert got == expected
