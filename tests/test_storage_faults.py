"""A disk that fails ends a run, and nothing is lost; a method that fails leaves the race, and the others go on."""

import errno
import os
import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import kshot
from conftest import labelled_rows
from kshot.core.errors import StorageError, UserError
from kshot.core.types import Example, Task
from kshot.methods.selectors.bm25 import Bm25
from kshot.models.remote.server_cache import ServerCache
from kshot.models.training_state import read_state, write_state
from kshot.store.disk_faults import disk_fault
from kshot.store.files import write_file
from kshot.store.scores import SqliteStore

TRAINED = "fine-tune:lr=1e-2,steps=1"


def no(name, kind=OSError):
    number = getattr(errno, name)
    return kind(number, os.strerror(number))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


@pytest.fixture
def adapt(tmp_path):
    examples = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(6)))
    task = Task("words", "classification", examples, labels=("animal", "food", "tool"))

    def adapt(model="scripted", recipes="bm25,majority,random"):
        return kshot.adapt(task, model, recipes=recipes, shots=2, limit=3, out=tmp_path / "run")

    return adapt


@pytest.fixture
def failing(adapt, monkeypatch):
    """Adapt with a method that fails, then with the same method mended."""

    def failing(error, cause=None):
        def fit(*args, **how):
            raise error from cause

        with monkeypatch.context() as patch:
            patch.setattr(Bm25, "fit", fit)
            return {row["recipe"]: row["status"] for row in adapt().leaderboard}

    return failing


def test_a_fault_of_the_disk_ends_the_run_whoever_meets_it(failing):
    with pytest.raises(StorageError, match="while bm25 is measured; the system says: Input/output error"):
        failing(no("EIO"))


def test_a_fault_of_the_disk_ends_the_run_whatever_has_come_of_it(failing, adapt, recorded, tmp_path):
    for error, cause in ((RuntimeError("it could not be cached"), no("ENOSPC")), (in_rust(28), None)):
        with pytest.raises(StorageError, match="the system says: No space left on device.*run the same command again"):
            failing(error, cause)
    assert adapt().chosen == recorded(tmp_path / "run")["results.json"][0]["chosen"]


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "x"),
        no("EACCES"),
        ConnectionError("gone"),
        ValueError("odd"),
        RuntimeError("(os error 2)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_method_that_fails_leaves_the_race(failing, error):
    assert failing(error) == {"random": "done", "majority": "done", "bm25": "failed"}


def in_rust(number):
    return SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")


def test_what_is_a_fault_of_the_disk():
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE"):
        assert disk_fault(no(name)) == os.strerror(getattr(errno, name))
    assert disk_fault(in_rust(errno.EROFS)) == "Read-only file system"
    assert disk_fault(no("ENOENT")) is None
    assert disk_fault(ValueError("[Errno 28]")) is None
    handled = ValueError("odd")
    handled.__context__, handled.__suppress_context__ = no("EIO"), True
    assert disk_fault(handled) is None


@pytest.mark.parametrize("fault", ["folder", "safetensors"])
def test_a_state_of_training_that_cannot_be_written_ends_the_run(adapt, tiny, tmp_path, monkeypatch, recorded, fault):
    """It does not make fine-tuning fail, for another recipe to be chosen."""
    monkeypatch.setattr("kshot.learners.trained.SECONDS_BETWEEN_STATES", -1)
    said = r"training/\w+.safetensors must be writable; the system says: "
    with monkeypatch.context() as patch:
        if fault == "folder":
            patch.setattr(Path, "mkdir", refusing("training"))
            said += "Permission denied"
        else:
            patch.setattr("kshot.models.training_state.save_file", refuse)
            said += "No space left on device"
        with pytest.raises(StorageError, match=said):
            adapt(tiny, f"{TRAINED},majority")
    assert not (tmp_path / "run" / "results.json").exists()
    assert adapt(tiny, f"{TRAINED},majority").leaderboard[0]["status"] == "done"


def refuse(*args, **how):
    raise in_rust(errno.ENOSPC)


def refusing(name):
    made = Path.mkdir

    def mkdir(self, *args, **how):
        if self.name == name:
            raise no("EACCES", PermissionError)
        return made(self, *args, **how)

    return mkdir


class FailingDatabase(sqlite3.Connection):
    def executemany(self, *args):
        raise sqlite3.OperationalError("disk I/O error")


def test_a_database_that_fails_ends_the_run(adapt, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=FailingDatabase))
        with pytest.raises(StorageError, match="must be a writable run database; SQLite says: disk I/O error"):
            adapt()
    assert {row["status"] for row in adapt().leaderboard} == {"done"}


def test_only_what_fails_for_the_disk_is_said_to_be_not_writable(tmp_path):
    def write(partial):
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        write_file(tmp_path / "file", write)
    assert not list(tmp_path.iterdir())


def test_a_folder_best_of_somebody_else_is_told_before_any_work(adapt, tmp_path):
    adapt()
    shutil.rmtree(tmp_path / "run" / "best")
    (tmp_path / "run" / "best").mkdir()
    (tmp_path / "run" / "best" / "mine.txt").touch()
    with pytest.raises(UserError, match="best must be new, empty or an adapted model: it is replaced"):
        adapt()
    assert (tmp_path / "run" / "best" / "mine.txt").exists()


def test_no_run_ends_because_the_cache_of_a_server_is_full(tmp_path, monkeypatch):
    """It could be opened, and then there was no room for more."""
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path))
    cache = ServerCache("http://host/v1", "m")
    cache.put_record("found", {"routes": ["echo"]})
    assert cache.count("text 7") is None

    def full(*args, **how):
        raise StorageError("SQLite says: database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "put_record", full)
        cache.put_record("found", {})
        for i in range(300):
            cache.put_count(f"text {i}", i)
    assert cache.count("text 7") == 7
    assert cache.record("found") == {"routes": ["echo"]}


@pytest.mark.parametrize("error", [no("EMFILE"), SafetensorError("Too many open files (os error 24)")])
def test_a_state_of_training_that_the_disk_does_not_give_is_not_called_damaged(tmp_path, monkeypatch, error):
    file = tmp_path / "state.safetensors"
    write_state(file, {"a": torch.ones(2)}, {"n": 1})

    def fails(*args, **how):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("kshot.models.training_state.safe_open", fails)
        with pytest.raises(type(error), match="Too many open files"):
            read_state(file)
    assert read_state(file)[1] == {"n": 1}
