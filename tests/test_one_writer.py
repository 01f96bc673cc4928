"""One writer a folder: the others wait, or are told who it is; whoever is killed keeps nobody out."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import kshot
from conftest import labelled_rows
from kshot.core.errors import StorageError, UserError
from kshot.core.gradient_settings import GradientStore
from kshot.core.types import Example, Task
from kshot.models import white_box
from kshot.store.commit import FINISHED, commit, settle, settled
from kshot.store.files import write_file, write_folder, write_json, write_text
from kshot.store.held import let_go, try_to_hold
from kshot.store.run_folder import FORMAT, HOLDER, MANIFEST, alone_in, opened_run
from kshot.verbs.select import select

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
EXAMPLES = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(9)))
TASK = Task("words", "classification", EXAMPLES, labels=("animal", "food", "tool"))


@pytest.fixture(scope="module")
def tiny():
    return kshot.load_model("tiny")


def at_once(*acts):
    """Act in processes that begin at the same moment; return what each has found, or the error that it was told."""
    fork = multiprocessing.get_context("fork")
    found, barrier = fork.Queue(), fork.Barrier(len(acts))

    def child(i, act):
        barrier.wait(60)
        try:
            found.put((i, act()))
        except UserError as error:
            found.put((i, error))

    processes = [fork.Process(target=child, args=pair) for pair in enumerate(acts)]
    for process in processes:
        process.start()
    results = dict(found.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
    return [results[i] for i in range(len(acts))]


def killed_in(act):
    """Act in a process that is killed once it has begun."""
    begun, begin = os.pipe()
    process = os.fork()
    if not process:
        act(lambda: (os.write(begin, b"x"), time.sleep(60)))
        os._exit(1)
    os.read(begun, 1)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_two_runs_with_other_seeds_in_one_folder(tmp_path, recorded, times):
    """One is refused, the other is as if it had been alone."""

    def adapt(seed, out):
        return kshot.adapt(TASK, "scripted", recipes="bm25,majority", shots=2, limit=4, seed=seed, out=out).chosen

    for seed in (0, 1):
        adapt(seed, tmp_path / str(seed))
    for i in range(times):
        out = tmp_path / f"both {i}"
        found = at_once(*(partial(adapt, seed, out) for seed in (0, 1)))
        (refused,) = (error for error in found if isinstance(error, UserError))
        assert "is at work in it. Wait" in str(refused) or "holds a run with another seed" in str(refused)
        assert recorded(out) == recorded(tmp_path / str(found.index(refused) ^ 1))
        assert not list(out.rglob(".*"))


def test_what_a_run_is_is_looked_at_by_who_holds_it(tmp_path):
    """Not before: another one may begin in the meantime."""
    with opened_run(tmp_path, {"seed": 0}):
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .+ \(since 20.+\) is at work in it. Wait"):
            opened_run(tmp_path, {"seed": 1}).__enter__()
        assert '"seed": 0' in (tmp_path / MANIFEST).read_text()


def test_who_is_killed_keeps_nobody_out_and_leaves_nothing(tmp_path):
    def work(ready):
        with alone_in(tmp_path):
            (tmp_path / ".file.0badcafe.partial").touch()
            (tmp_path / "training" / ".state.0badcafe.partial").mkdir(parents=True)
            ready()

    killed_in(work)
    assert (tmp_path / HOLDER).exists()
    write_json(tmp_path / MANIFEST, {"format": FORMAT})
    with opened_run(tmp_path, {}):
        assert {path.name for path in tmp_path.rglob("*")} == {HOLDER, MANIFEST, "training"}
    assert not (tmp_path / HOLDER).exists()


def test_readers_forget_who_was_killed_and_nobody_else(tmp_path):
    def work(ready):
        with alone_in(tmp_path):
            ready()

    write_json(tmp_path / MANIFEST, {})
    killed_in(work)
    settle(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
    with alone_in(tmp_path):
        settle(tmp_path)
        assert (tmp_path / HOLDER).exists()


def test_nothing_is_done_in_a_folder_that_is_no_run(tmp_path):
    for name in ("notes.txt", ".notes.0badcafe.partial"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="must be an empty folder or a run of kshot"):
        opened_run(tmp_path, {}).__enter__()
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".notes.0badcafe.partial"}


def test_a_folder_is_free_though_a_child_of_its_holder_lives_on(tmp_path):
    with alone_in(tmp_path):
        process = os.fork()
        if not process:
            time.sleep(60)
            os._exit(0)
    with alone_in(tmp_path):
        pass
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_where_there_are_no_locks_nothing_is_taken_for_litter(tmp_path, monkeypatch):
    monkeypatch.setattr("kshot.store.held.find_spec", lambda name: None)
    (tmp_path / ".file.0badcafe.partial").touch()
    with alone_in(tmp_path), alone_in(tmp_path):
        write_text(tmp_path / "file", "a")
        write_folder(tmp_path / "folder", {"file": "a"})
        write_folder(tmp_path / "folder", {"file": "b"})
    assert {path.name for path in tmp_path.iterdir()} == {".file.0badcafe.partial", "file", "folder"}


def test_what_somebody_is_writing_is_no_litter(tmp_path):
    def write(partial):
        with alone_in(tmp_path):
            write_text(tmp_path / "file", "of another one")
        partial.write_text("a")

    write_file(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("of", ["last-block", pytest.param("lora,snapshots=2,epochs=1", marks=pytest.mark.slow)])
def test_selections_that_share_a_folder_of_gradients(tiny, tmp_path, of):
    """They wait for each other, and choose what one alone chooses."""

    def choose(folder):
        store = GradientStore(folder)
        return [e.id for e in select(TASK, f"gradient-matching:of={of}", 2, model=tiny, gradient_store=store)]

    alone = choose(tmp_path / "alone")
    assert at_once(*[lambda: choose(tmp_path / "shared")] * 3) == [alone] * 3
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_who_waits_says_for_whom(tmp_path):
    held, go_on, said = threading.Event(), threading.Event(), []

    def hold():
        with alone_in(tmp_path):
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)

    def waiting(text):
        said.append(text)
        go_on.set()

    with alone_in(tmp_path, waiting):
        thread.join(60)
    (text,) = said
    assert text.startswith(f"waiting for process {os.getpid()} on ")
    assert text.endswith(f"which is at work in {tmp_path}")


@pytest.mark.slow
def test_two_merges_into_one_folder(tiny, tmp_path):
    texts, labels = zip(*((e.input, e.output) for e in EXAMPLES), strict=True)
    adapted = kshot.FewShotClassifier(tiny, recipe="fine-tune:lr=1e-2,steps=1").fit(texts, labels).adapted_
    adapted.save_merged(tmp_path / "alone")
    found = at_once(*[lambda: adapted.save_merged(tmp_path / "merged")] * 2)
    (refused,) = (error for error in found if isinstance(error, UserError))
    assert "must be new or empty" in str(refused)
    assert len({path.name for path in tmp_path.iterdir()}) == 2
    for file in (tmp_path / "alone").iterdir():
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()


def test_verbs_of_a_retriever_are_refused_while_another_is_at_work(tmp_path, run_cli, words_task):
    started = ("retriever", "candidates", words_task, "--out", tmp_path, "--settings", "candidates=4,queries=6")
    assert run_cli(*started).code == 0
    with alone_in(tmp_path):
        for command in (started, *(("retriever", verb, tmp_path) for verb in ("reward", "distill"))):
            refused = run_cli(*command)
            assert refused.code == 2
            assert f"process {os.getpid()} on " in refused.err


def test_a_record_is_not_replaced_while_it_is_read(tmp_path):
    write_json(tmp_path / MANIFEST, {})

    def write(text):
        def fill(folder):
            for name in ("results.json", "samples.jsonl"):
                (folder / name).write_text(text)

        return fill

    commit(tmp_path, write("old"))
    with settled(tmp_path):
        thread = threading.Thread(target=lambda: commit(tmp_path, write("new")))
        thread.start()
        first = (tmp_path / "results.json").read_text()
        thread.join(0.05)
        assert (first, (tmp_path / "samples.jsonl").read_text()) == ("old", "old")
    thread.join(60)
    assert (tmp_path / "results.json").read_text() == "new"


def begun(folder):
    """Commit over an older record, as a process that is killed before the first piece is in its place."""
    write_json(folder / MANIFEST, {})
    commit(folder, lambda staged: write_folder(staged / "best", {"model": "old"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kshot.store.commit._put_in_place", interrupted)
        with pytest.raises(KeyboardInterrupt):
            commit(folder, lambda staged: write_folder(staged / "best", {"model": "new"}))
    assert (folder / "best" / "model").read_text() == "old"


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_run_that_is_refused_finishes_a_commit(tmp_path):
    def adapt(seed):
        kshot.adapt(TASK, "scripted", recipes="majority", shots=2, limit=2, seed=seed, out=tmp_path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kshot.store.commit._put_in_place", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapt(0)
    assert (tmp_path / FINISHED).exists()
    with pytest.raises(UserError, match="holds a run with another seed"):
        adapt(1)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "best" / "kshot.json").exists()


def test_a_pipe_as_manifest_is_no_run(tmp_path):
    """Nobody waits for its writer."""
    os.mkfifo(tmp_path / MANIFEST)
    settle(tmp_path)
    let_go(try_to_hold(tmp_path / MANIFEST))
    with pytest.raises(UserError, match="it has no readable kshot.json"):
        kshot.load(tmp_path)


def test_readers_that_come_at_once_finish_a_commit(tmp_path):
    begun(tmp_path)

    def read():
        with settled(tmp_path):
            return (tmp_path / "best" / "model").read_text()

    assert at_once(*[read] * 3) == ["new"] * 3
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, "best"}


def test_a_reader_that_cannot_finish_a_commit_says_so(tmp_path, monkeypatch):
    begun(tmp_path)

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("kshot.store.commit.put_in_place", refuse)
    with pytest.raises(StorageError, match="must be writable; the system says: Read-only file system"):
        kshot.load(tmp_path)
    monkeypatch.undo()
    with settled(tmp_path):
        assert (tmp_path / "best" / "model").read_text() == "new"


# Converted models


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(b"GGUF and more")
    return tmp_path / "cache"


def test_a_file_is_converted_once_whoever_else_waits(cache, monkeypatch, capfd):
    def convert(file, target):
        time.sleep(0.2)
        (target / f"by {os.getpid()}").touch()

    monkeypatch.setattr("kshot.models.checkpoint.convert_gguf", convert)
    first, second = at_once(*[lambda: str(white_box.source_of(f"gguf:{cache.parent / 'x.gguf'}"))] * 2)
    assert first == second
    assert [path.name for path in cache.iterdir()] == [Path(first).name]
    assert len(list(Path(first).glob("by *"))) == 1
    said = capfd.readouterr().err
    assert said.count("converting x.gguf to safetensors, once") == 1
    assert said.count("waiting for ") == 1


def test_conversions_that_were_killed_are_taken_away(cache, monkeypatch):
    name, half_way = f"gguf:{cache.parent / 'x.gguf'}", []

    def convert(file, target):
        (target / "half").touch()
        for tell in half_way:
            tell()

    monkeypatch.setattr("kshot.models.checkpoint.convert_gguf", convert)

    def work(ready):
        half_way.append(ready)
        white_box.source_of(name)

    killed_in(work)
    for i, age in enumerate((7200, 0)):  # as versions before this one left them
        for left in (cache / f".gguf-abcd123{i}", cache / f".gemma-3-270m-q4_k_m.gguf.{i}"):
            left.mkdir() if "gguf-" in left.name else left.touch()
            os.utime(left, (time.time() - age,) * 2)
    assert len(list(cache.glob(".*"))) == 6
    converted = white_box.source_of(name)
    young = {".gguf-abcd1231", ".gemma-3-270m-q4_k_m.gguf.1"}
    assert {path.name for path in cache.iterdir()} == {Path(converted).name} | young
