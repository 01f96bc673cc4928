"""Threads and processes at once: they get the answers that one after the other would get, or are told to wait."""

import copy
import io
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

import kshot
from conftest import labelled_rows
from kshot import FewShotClassifier
from kshot.core.errors import UserError
from kshot.core.locks import SharedLock
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.models import again
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.store.files import write_folder, write_text

ROWS = labelled_rows(12)
X, Y = [row["input"] for row in ROWS], [row["output"] for row in ROWS]
N_THREADS = 8
RECIPES = {
    "prompted": "bm25",
    "trained": "icl+ft:k=2,lr=1e-2,steps=1",
    "steered": "icv:strength=0.5",
    "combined": "average(bm25,zero-shot)",
    "without a model": "tfidf-lr",
    "embedded": "dense",
}


@pytest.fixture(scope="module")
def fitted():
    """A classifier for each recipe, all on one backbone, fitted when it is asked for."""
    model, known = kshot.load_model("tiny"), {}

    def fitted(name):
        if name not in known:
            known[name] = FewShotClassifier(model, recipe=RECIPES[name], shots=2).fit(X, Y)
        return known[name]

    return fitted


@pytest.fixture
def switching():
    """Let threads take turns many times in one call."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def asked(n):
    return [[f"the cat, number {i}", f"{i} saws and some bread"] for i in range(n)]


def in_threads(act, values):
    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(act, values))


def same_in_threads(classifiers, n):
    """Ask in threads what was asked before one after the other, each time the next of the classifiers."""

    def ask(i):
        return classifiers[i % len(classifiers)].predict_proba(asked(n)[i]).tolist()

    alone = [ask(i) for i in range(n)]
    assert in_threads(ask, range(n)) == alone


@pytest.mark.parametrize("name", ["prompted", "combined", "without a model"])  # others: test_threads.py
def test_threads_get_the_answers_of_one_after_the_other(fitted, switching, name):
    same_in_threads([fitted(name)], 12)


@pytest.mark.slow
def test_2000_predictions_in_threads_equal_those_one_after_the_other(fitted, switching):
    same_in_threads([fitted(name) for name in RECIPES], 1000)  # two texts at a time


def test_threads_fit_and_load_at_once(switching):
    def fit(i):
        return FewShotClassifier("tiny", recipe="bm25", shots=2).fit(X, Y).predict_proba(X[:2]).tolist()

    found = in_threads(fit, range(4))
    assert all(row == found[0] for row in found)


def test_an_answer_that_is_written_in_threads(tmp_path, switching):
    rows = tuple(Example(f"what is {i} and 1?", f"it is {i + 1}", f"r{i}") for i in range(4))
    task = Task("sums", "generation", rows, metrics=("exact_match",))
    best = kshot.adapt(task, "tiny", recipes="bm25", shots=2, limit=1, out=tmp_path / "run").best
    alone = [best.predict([f"what is {i} and 1?"]) for i in range(8)]
    assert in_threads(lambda i: best.predict([f"what is {i} and 1?"]), range(8)) == alone


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_joblib(fitted, backend):
    classifier = fitted("trained")
    alone = [classifier.predict_proba([text]).tolist() for text in X]
    with joblib.parallel_config(backend, n_jobs=2):
        assert [
            a.tolist() for a in joblib.Parallel()(joblib.delayed(classifier.predict_proba)([x]) for x in X)
        ] == alone
        answers = joblib.Parallel()(joblib.delayed(classifier.adapted_.predict)([x]) for x in X)
        assert answers == [classifier.adapted_.predict([x]) for x in X]
        for model in ("tiny", classifier.model):
            scores = cross_val_score(FewShotClassifier(model, recipe="bm25"), X, Y, cv=2, error_score="raise")
            assert scores.tolist() == cross_val_score(FewShotClassifier("tiny", recipe="bm25"), X, Y, cv=2).tolist()


# Copies


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "embedded"])
def test_copies_answer_alike_and_share_the_weights(fitted, name):
    adapted = fitted(name).adapted_
    file = io.BytesIO()
    joblib.dump(adapted, file)
    assert file.tell() < 100_000
    file.seek(0)
    for twin in (joblib.load(file), copy.deepcopy(adapted), copy.copy(adapted)):
        assert twin is not adapted
        assert twin.predict_proba(X[:3]).tolist() == adapted.predict_proba(X[:3]).tolist()
        if adapted.model:
            assert twin.model.backbone is adapted.model.backbone


def test_it_can_be_pickled_while_it_answers(fitted, switching):
    adapted = fitted("steered").adapted_
    alone = adapted.predict_proba(X).tolist()

    def act(i):
        return adapted.predict_proba(X).tolist() if i % 2 else copy.deepcopy(adapted).predict_proba(X).tolist()

    assert in_threads(act, range(6)) == [alone] * 6


def test_a_model_is_pickled_as_its_name_and_loaded_again(monkeypatch):
    model = kshot.load_model("tiny")
    assert copy.deepcopy(model).backbone is model.backbone
    again_made, arguments = model.backbone.__reduce__()
    assert again_made(*arguments) is model.backbone  # as it is here already
    monkeypatch.setattr(again, "_ALIVE", {})
    loaded = again_made(*arguments)
    assert loaded is not model.backbone
    assert loaded.fingerprint == model.fingerprint
    with pytest.raises(UserError, match="'tiny' must have the weights with which it was pickled; they have changed"):
        again_made(*arguments[:-1], "0" * 64)


def test_a_model_that_cannot_be_loaded_by_its_name_cannot_be_pickled():
    backbone = tiny_backbone()
    backbone.name = "mine"
    classifier = FewShotClassifier(Engine(backbone), recipe="bm25", shots=2).fit(X, Y)
    assert copy.deepcopy(classifier).predict(X).tolist() == classifier.predict(X).tolist()
    with pytest.raises(UserError, match="'mine' was made in memory. Save it into a folder and load that"):
        joblib.dump(classifier, io.BytesIO())


def test_a_scripted_model_travels_with_its_table():
    classifier = FewShotClassifier(ScriptedModel({"cat": "tool"}), recipe="zero-shot").fit(X, Y)
    assert copy.deepcopy(classifier.adapted_).predict(["a cat"]) == ["tool"]


# Forks


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_while_threads_answer(fitted):
    """Its memory is that of a moment between two answers, and no lock is held in it by a thread that it has not."""
    classifier = fitted("steered")
    alone, ended = classifier.predict_proba(X[:2]).tolist(), threading.Event()

    def answer():
        while not ended.is_set():
            classifier.predict_proba(X[:2])

    def child():
        os._exit(0 if classifier.predict_proba(X[:2]).tolist() == alone else 1)

    busy = [threading.Thread(target=answer) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        for _ in range(3):
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(60)
            code = process.exitcode
            process.kill()
            assert code == 0
    finally:
        ended.set()
        for thread in busy:
            thread.join()


@pytest.mark.slow
def test_a_process_that_is_spawned(fitted):
    adapted = fitted("trained").adapted_
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(adapted.predict_proba, (X[:2],)).tolist() == adapted.predict_proba(X[:2]).tolist()


def test_a_fork_waits_for_who_holds_a_lock():
    lock, held, order = SharedLock(0), threading.Event(), []

    def hold():
        with lock, lock:  # taken again by who has it
            held.set()
            time.sleep(0.05)
            order.append("released")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    process = os.fork()
    if not process:
        with lock:
            os._exit(0)
    order.append("forked")
    assert os.waitpid(process, 0)[1] == 0
    thread.join()
    assert order == ["released", "forked"]


def test_a_fork_while_a_lock_is_made_by_who_holds_another():
    outer, held, made = SharedLock(0), threading.Event(), []

    def hold():
        with outer:
            held.set()
            time.sleep(0.05)
            made.append(SharedLock(1))

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    process = os.fork()
    if not process:
        with outer, made[0]:
            os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
    thread.join()


# One folder, two runs


def test_two_runs_in_two_folders_at_once(words_task, tmp_path, switching):
    def adapt(name):
        return kshot.adapt(words_task, "tiny", recipes="bm25,majority", shots=2, limit=6, out=tmp_path / name)

    (tmp_path / "a").mkdir()
    runs = in_threads(adapt, ["a", "b"])
    assert runs[0].chosen == runs[1].chosen
    assert (runs[0].best.predict_proba(X) == runs[1].best.predict_proba(X)).all()


def test_a_second_run_in_one_folder_is_refused(run_cli, words_task, tmp_path, recorded, monkeypatch):
    """Also in a thread of the same process; and it is no longer refused once the first has ended, or failed."""
    begun, go_on = threading.Event(), threading.Event()

    class Waiting(kshot.core.progress.Silence):  # type: ignore
        def begin(self, recipe, total):
            begun.set()
            go_on.wait(60)

    def adapt(**more):
        return kshot.adapt(words_task, "scripted", recipes="bm25", shots=2, limit=6, out=tmp_path / "run", **more)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(adapt, progress=Waiting())
        begun.wait(60)
        try:
            with pytest.raises(
                UserError, match=r"must be used by one run at a time; process \d+ on .+ is at work in it. Wait"
            ):
                adapt()
            with monkeypatch.context() as patch:
                patch.setattr(kshot.verbs.prepare.Prepared, "load_models", None)  # type: ignore - a probe is paid
                with pytest.raises(UserError, match="must be used by one run at a time"):
                    adapt()
            flags = ("--model", "scripted", "--recipes", "bm25", "--shots", 2, "--limit", 6, "--out", tmp_path / "run")
            refused = run_cli("adapt", words_task, *flags)
            assert refused.code == 2
            assert refused.err.splitlines()[-1].endswith("Wait until it has ended, or name another folder.")
        finally:
            go_on.set()
        first.result()
    before = recorded(tmp_path / "run")

    def fails(folder):
        raise OSError("no")

    with pytest.raises(kshot.core.errors.StorageError, match="no"):  # type: ignore
        adapt(trackers=[fails])
    adapt()
    assert recorded(tmp_path / "run") == before
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_encoders_in_threads(monkeypatch):
    """A text is embedded once, and the number of threads is put back."""
    from kshot.encoders.encoder import Encoder

    class Model:
        n = 0

        def get_embedding_dimension(self):
            return 2

        def encode(self, texts, **how):
            Model.n += len(texts)
            time.sleep(0.01)
            return np.array([[len(text), 1.0] for text in texts])

    import torch

    before = torch.get_num_threads()
    encoder = Encoder(Model())
    found = in_threads(lambda i: encoder.embed(["a", "bb", f"text {i % 3}"]).tolist(), range(9))
    assert found == [[[1.0, 1.0], [2.0, 1.0], [6.0, 1.0]]] * 9
    assert Model.n == 5
    assert torch.get_num_threads() == before


def test_threads_that_write_one_file_or_folder(tmp_path, switching):
    """Each leaves it whole."""
    texts = [str(i) * 2000 for i in range(N_THREADS)]
    in_threads(lambda text: [write_text(tmp_path / "file", text) for _ in range(5)], texts)
    assert (tmp_path / "file").read_text() in texts
    in_threads(lambda text: [write_folder(tmp_path / "folder", {"a": text, "b": text}) for _ in range(5)], texts)
    assert (tmp_path / "folder" / "a").read_text() == (tmp_path / "folder" / "b").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
