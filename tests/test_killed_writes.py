"""Killed, or out of space, at any moment of writing: what was there is there, or what is new; nothing half, no litter.

A moment is the start or the end of a call that changes what stands in a folder, or waits for the disk.
"""

import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kshot
from conftest import labelled_rows
from kshot.core.errors import StorageError, UserError
from kshot.core.gradient_settings import GradientStore
from kshot.core.types import Example, Task
from kshot.reports.html import read_record
from kshot.store import files
from kshot.store.commit import FINISHED, commit, settle
from kshot.store.files import put_in_place, write_file, write_folder, write_json, write_text
from kshot.store.run_folder import MANIFEST
from kshot.verbs.select import select

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

ROWS = labelled_rows(9)
EXAMPLES = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(ROWS))
TASK = Task("words", "classification", EXAMPLES, labels=("animal", "food", "tool"))
TRAINED = "fine-tune:lr=1e-2,steps=1"


class Moments:
    """Calls `stop` at the n-th moment; counts them all."""

    def __init__(self, patch: pytest.MonkeyPatch, n: int, stop: Callable[[], None], *, ends: bool = True):
        self.n, self.seen, self.stop, self.ends = n, 0, stop, ends
        for name in ("rename", "replace", "fsync", "mkdir", "rmdir"):
            patch.setattr(os, name, self.watched(getattr(os, name)))
        patch.setattr(files, "_exchange", self.watched(files._exchange))

    def watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **how: Any) -> Any:
            self.moment()
            result = call(*args, **how)
            if self.ends:
                self.moment()
            return result

        return watched

    def moment(self) -> None:
        self.seen += 1
        if self.seen == self.n:
            self.stop()


def killed(act: Callable[[], object], n: int) -> bool:
    """Act in a fork that is killed at its n-th moment; return whether it came to that."""
    process = os.fork()
    if not process:
        try:
            with pytest.MonkeyPatch.context() as patch:
                Moments(patch, n, lambda: os.kill(os.getpid(), signal.SIGKILL))
                act()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def full(act: Callable[[], object], n: int) -> bool:
    """Act where the disk is full at the n-th moment; return whether it came to that."""

    def stop() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = ""
    with pytest.MonkeyPatch.context() as patch:
        moments = Moments(patch, n, stop, ends=False)
        try:
            act()
        except (StorageError, UserError) as error:
            told = str(error)
    assert not told or "No space left on device" in told
    assert ".partial" not in told
    return moments.seen >= n


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


class Scenario:
    """Something that writes into a folder, again and again if need be.

    Attributes:
        before: What is there before; None for nothing.
        act: Writes, and returns what it has found.
        seen: Returns what a reader sees, which is what was there before or what is there at the end.
    """

    before: Callable[[Path], object] | None = None
    act: Callable[[Path], object]
    seen: Callable[[Path], object]

    def begin(self, place: Path) -> None:
        """Make what is there before, and look at what is there after an undisturbed end."""
        self.place, self.n_folders = place, 0
        (place / "before").mkdir()
        if self.before:
            self.before(place / "before")
        last = self.folder()
        self.result, self.first, self.last = self.act(last), self.seen(place / "before"), self.seen(last)

    def folder(self) -> Path:
        """Return a folder with what is there before."""
        self.n_folders += 1
        return Path(shutil.copytree(self.place / "before", self.place / str(self.n_folders)))

    def stopped(self, stopping: Callable[..., bool], n: int) -> bool:
        """Stop it at a moment, look at what is there, and let the next one come; return whether it came to that."""
        folder = self.folder()
        if not stopping(lambda: self.act(folder), n):
            return False
        assert self.seen(folder) in (self.first, self.last)
        assert self.act(folder) == self.result
        assert self.seen(folder) == self.last
        assert not [str(path) for path in folder.rglob(".*")], "litter"
        shutil.rmtree(folder)
        return True


class Commit(Scenario):
    """A small record that is replaced: as in a run, without a model."""

    def before(self, folder):
        write_json(folder / MANIFEST, {})
        commit(folder, self.write("old"))
        (folder / "of a user").touch()

    def act(self, folder):
        commit(folder, self.write("new"))

    def seen(self, folder):
        settle(folder)
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}

    def write(self, text):
        def write(folder):
            write_folder(folder / "best", {name: text for name in ("model", text)})
            for name in ("results.json", "samples.jsonl"):
                write_text(folder / name, text)

        return write


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "put aside"])
@pytest.mark.parametrize("stopping", [killed, full], ids=["killed", "full"])
def test_moments_of_a_commit_can_be_the_last(tmp_path, monkeypatch, stopping, exchange, step):
    """Also where the system cannot exchange two folders."""
    monkeypatch.setattr(os, "fsync", lambda opened: None)  # the disk takes its time
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *folders: False)
    scenario, n_stops = Commit(), 0
    scenario.begin(tmp_path)
    while scenario.stopped(stopping, 1 + n_stops * step):
        n_stops += 1
    assert n_stops * step > 30


def stop(*_):
    raise InterruptedError


@pytest.fixture
def left(tmp_path, monkeypatch):
    """What a run that is stopped before it takes its place has left; there is a folder of somebody else, too."""
    monkeypatch.setattr(os, "fsync", lambda opened: None)
    run, commits = tmp_path / "run", Commit()
    run.mkdir()
    commits.before(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kshot.store.commit._put_in_place", stop)
        with pytest.raises(StorageError):
            commits.act(run)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "results.json").write_text("theirs")
    return run / FINISHED


def other(make):
    """Put something else in place of the finished record."""

    def put(left):
        shutil.rmtree(left)
        make(left)

    return put


def flipped(file):
    text = bytearray(file.read_bytes())
    text[len(text) // 2] ^= 1
    file.write_bytes(text)


def standing():
    """Return what there is, here and below."""
    stats = [(str(path), path.lstat()) for path in sorted(Path().rglob("*"))]
    return [(name, of.st_ino, of.st_size, of.st_mtime_ns) for name, of in stats]


def linked(place):
    place.unlink()
    place.symlink_to(place.parents[2] / "theirs" / "results.json")


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (other(lambda left: left.symlink_to("../theirs")), "it is no folder"),
        (other(lambda left: left.symlink_to("nowhere")), "it is no folder"),
        (other(lambda left: left.write_text("")), "it is no folder"),
        (other(os.mkfifo), "it is no folder"),
        (other(lambda left: shutil.copytree("theirs", left)), "its .folders.json is not as kshot wrote it"),
        (lambda left: flipped(left / ".folders.json"), "its .folders.json is not as kshot wrote it"),
        (lambda left: (left / MANIFEST).touch(), "manifest.json is none of it"),
        (lambda left: linked(left / "results.json"), "its results.json is a link, or not what it is called"),
        (lambda left: os.mkfifo(left / "best" / "pipe"), "its best/pipe is a link, or not what it is called"),
        (lambda left: flipped(left / "best" / "model"), "neither its best nor "),
        (lambda left: (left / "samples.jsonl").unlink(), "neither its samples.jsonl nor "),
    ],
    ids=["link", "dead link", "file", "pipe", "folder", "marks", "piece", "linked piece", "inner pipe", "best", "gone"],
)
def test_what_no_run_has_left_behind_is_refused_and_nothing_moved(left, monkeypatch, put, why):
    monkeypatch.chdir(left.parents[1])
    put(left)
    before = standing()
    with pytest.raises(UserError) as refused:
        settle(left.parent)
    start = f"{left} must hold what a run of kshot has left behind, and nothing else; {why}"
    assert str(refused.value).startswith(start)
    assert str(refused.value).endswith("Take it away, and repeat the run's command.")
    assert standing() == before


def test_a_link_instead_of_the_model_of_a_run_is_refused(left):
    shutil.rmtree(left.parent / "best")
    (left.parent / "best").symlink_to(left.parents[1] / "theirs")
    with pytest.raises(UserError, match="best must be a folder of the run, no link or file. Take it away"):
        settle(left.parent)
    (left.parent / "best").unlink()
    settle(left.parent)
    assert Commit().seen(left.parent)["best/model"] == "new"


@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_never_brings_the_older_model_back(left, step):
    """Killed once the new one has taken its place; then the older one is with the pieces that are still to move."""
    run, text = left.parent, (left / ".folders.json").read_bytes()
    put_in_place(left / "best", run / "best")
    for bit in range(0, 8 * len(text), step):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        (left / ".folders.json").write_bytes(damaged)
        with pytest.raises(UserError, match="folders.json is not as kshot wrote it"):
            settle(run)
        assert (run / "best" / "model").read_text() == "new"
    (left / ".folders.json").write_bytes(text)
    flipped(run / "best" / "model")
    with pytest.raises(UserError, match=f"neither its best nor {run / 'best'} is as it was written"):
        settle(run)
    flipped(run / "best" / "model")
    assert Commit().seen(run)["best/model"] == Commit().seen(run)["results.json"] == "new"


def test_a_full_disk_is_told_by_a_path_that_a_user_knows(tmp_path):
    def write(partial):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(folder):
        write_file(folder / "file", write)

    write_json(tmp_path / MANIFEST, {})
    with pytest.raises(StorageError, match=f"^{tmp_path} must be writable"):
        commit(tmp_path, lambda staged: write_folder(staged / "best", {}, more=fill))
    with pytest.raises(StorageError, match=f"^{tmp_path / 'model'} must be writable"):
        write_folder(tmp_path / "model", {}, more=fill)


class Learning(Scenario):
    """Something that needs a model.

    Args:
        tiny: The model.
        recorded: Reads what a run has recorded.
    """

    def __init__(self, tiny: Any, recorded: Any):
        self.tiny, self.recorded = tiny, recorded

    def fitted(self, recipe):
        texts, labels = zip(*(row.values() for row in ROWS), strict=True)
        return kshot.FewShotClassifier(self.tiny, recipe=recipe, shots=2).fit(texts, labels).adapted_


class FirstRun(Learning):
    def act(self, folder, recipes=f"bm25,{TRAINED}"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kshot.learners.trained.SECONDS_BETWEEN_STATES", -1)
            how = {"recipes": recipes, "shots": 2, "limit": 3, "race": False}
            return kshot.adapt(TASK, self.tiny, out=folder / "run", **how).chosen

    def seen(self, folder):
        """Return model and record, which belong together, or None where there are none yet."""
        if not (folder / "run" / "results.json").exists() and not (folder / "run" / ".finished").exists():
            with pytest.raises(UserError, match="is a run that is not finished|it has no readable kshot.json"):
                kshot.load(folder / "run", model=self.tiny)
            return None
        adapted = kshot.load(folder / "run", model=self.tiny)
        record = read_record(folder / "run")
        assert adapted.recipe.name == record["results"]["chosen"] == adapted.choice["recipe"]
        assert set(record["rows"]) == {row["recipe"] for row in record["results"]["leaderboard"]}
        assert (folder / "run" / "report.html").exists()
        return self.recorded(folder / "run"), adapted.predict_proba(["the cat"]).tolist()


class OtherRecipes(FirstRun):
    def before(self, folder):
        self.act(folder, "majority")


class Save(Learning):
    def before(self, folder):
        self.newer = self.fitted(TRAINED)
        self.fitted("bm25").save(folder / "model")

    def act(self, folder):
        self.newer.save(folder / "model")

    def seen(self, folder):
        return kshot.load(folder / "model", model=self.tiny).predict_proba(["the cat"]).tolist()


class Merge(Learning):
    def before(self, folder):
        self.trained = self.fitted(TRAINED)

    def act(self, folder):
        if not (folder / "merged").exists():
            self.trained.save_merged(folder / "merged")
            return
        with pytest.raises(UserError, match="must be new or empty, for the merged model; it holds something"):
            self.trained.save_merged(folder / "merged")

    def seen(self, folder):
        return {file.name: file.read_bytes() for file in folder.glob("merged/*")}


class Gradients(Learning):
    def act(self, folder):
        store = GradientStore(folder / "gradients")
        selector = "gradient-matching:of=lora,snapshots=2,epochs=1"
        return [example.id for example in select(TASK, selector, 2, model=self.tiny, gradient_store=store)]

    def seen(self, folder):
        return None


@pytest.fixture(scope="module")
def scenario(tiny, recorded, tmp_path_factory):
    """A scenario, begun when it is asked for."""
    begun: dict[Any, Scenario] = {}

    def scenario(kind):
        if kind not in begun:
            begun[kind] = kind(tiny, recorded)
            begun[kind].begin(tmp_path_factory.mktemp(kind.__name__))
        return begun[kind]

    return scenario


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [(FirstRun, 3), (OtherRecipes, 3), (Save, 1), (Merge, 1), (Gradients, 1)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("stopping", [killed, full], ids=["killed", "full"])
def test_moments_can_be_the_last(scenario, kind, step, stopping):
    """An odd step meets both starts and ends of calls."""
    n_stops = 0
    while scenario(kind).stopped(stopping, 1 + n_stops * step):
        n_stops += 1
    print(f"{kind.__name__}: stopped {n_stops} times")
    assert n_stops > 10
