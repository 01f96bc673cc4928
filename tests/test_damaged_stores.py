"""What a run keeps and what is not as it was written: computed again and said, or refused by the file's name."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kshot
import kshot.learners.trained
from conftest import labelled_rows
from encoders import make_tiny_encoder
from kshot.core.errors import StorageError, UserError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.ledger import Ledger
from kshot.core.progress import Silence
from kshot.core.types import Example, Generation, Prediction, Query, Task
from kshot.engine.language_model import Engine
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.store.sealed import read_sealed, write_sealed
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.retriever import RetrieverRun, parse_settings

STREAM = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(6)))
QUERIES = [Query(e, STREAM[:i]) for i, e in enumerate(STREAM)]
TASK = Task("words", "classification", STREAM, labels=("animal", "food", "tool"))


class Heard(Silence):
    """Remembers what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def flip(file: Path, at: int = -1, bit: int = 0) -> None:
    """Flip a bit of a file's byte."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def sql(file: Path, *commands: str) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        for command in commands:
            assert db.execute(command).rowcount != 0


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


# ---- the run's store


SCORES = {"a": [-1.0, -2.5], "b": [-0.25, -0.5]}
DAMAGES = {
    "a bit of the log-probabilities": "value = x'01' || substr(value, 2)",
    "text for bytes": "value = 'nothing'",
    "text that is no UTF-8": "value = CAST(x'ff80' AS TEXT)",
    "a number for bytes": "value = 3",
    "nothing": "value = NULL",
    "too few bytes": "value = substr(value, 1, 7)",
    "a bit of the checksum": "checksum = x'00' || substr(checksum, 2)",
    "no checksum": "checksum = NULL",
    "another key": "key = 'A'",
    "another kind": "kind = 'text'",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_as_if_it_were_not_there(damage, tmp_path):
    file, heard = tmp_path / "store.sqlite", Heard()
    rows = [(key, np.array(values), 0.5) for key, values in SCORES.items()]
    with closing(SqliteStore(file)) as store:
        store.put(rows)
    sql(file, f"UPDATE kept SET {DAMAGES[damage]} WHERE key = 'a'")
    with closing(SqliteStore(file, heard.say)) as store:
        assert {key: values.tolist() for key, (values, _) in store.get(["a", "b"]).items()} == {"b": SCORES["b"]}
        assert store.get_texts(["a"]) == {}
        store.put(rows)
        assert {key: values.tolist() for key, (values, _) in store.get(["a", "b"]).items()} == SCORES
    is_seen = "another key" not in damage  # what is under another key is never asked for
    assert heard.said == ["store.sqlite was damaged: 1 row of it did not count, and were computed again"] * is_seen


def test_damaged_texts_and_records(tmp_path):
    file, heard = tmp_path / "store.sqlite", Heard()
    with closing(SqliteStore(file, heard.say)) as store:
        store.put_texts([("a", Generation("tea é", True), 0.5)])
        store.put_record("b", {"rows": ["é", 0.1]})
        assert store.get_texts(["a"]) == {"a": (Generation("tea é", True), 0.5)}
        assert store.get_record("b") == {"rows": ["é", 0.1]}
        sql(file, "UPDATE kept SET value = replace(value, '0.', '1.')")
        assert (store.get_texts(["a"]), store.get_record("b")) == ({}, None)
    assert heard.said == ["store.sqlite was damaged: 2 rows of it did not count, and were computed again"]


def test_a_database_that_sqlite_cannot_read(tmp_path):
    file = tmp_path / "store.sqlite"
    with closing(SqliteStore(file)) as store:
        store.put([(str(i), np.zeros(100), 0.0) for i in range(100)])
    whole, remedy = file.read_bytes(), f"Delete {file} and run the same command again: what was in it is computed again"
    file.write_bytes(b"hello" + whole[5:])
    with pytest.raises(StorageError, match=f"must be a database that SQLite can read; .*not a database. {remedy}"):
        SqliteStore(file)
    file.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with closing(SqliteStore(file)) as store, pytest.raises(StorageError, match=f"malformed. {remedy}"):
        store.get(["7"])
    for old, new in ((b"CREATE TABLE kept", b"CREATE TABLE k\xffpt"), (b"value BLOB", b"valuf BLOB")):
        file.write_bytes(whole.replace(old, new))
        with pytest.raises(StorageError, match=remedy):
            SqliteStore(file).get(["7"])
    shutil.copy(file, file.with_name("store.sqlite-wal"))  # of a database that is not there any more
    file.unlink()
    with closing(SqliteStore(file)) as store:
        assert store.count() == 0


def test_a_store_of_before_there_were_checksums(tmp_path):
    file = tmp_path / "store.sqlite"
    sql(file, "CREATE TABLE scores (key TEXT PRIMARY KEY, log_probs BLOB NOT NULL, seconds REAL NOT NULL)")
    sql(file, "INSERT INTO scores VALUES ('a', x'00', 0.0)")
    with closing(SqliteStore(file)) as store:
        assert store.get(["a"]) == {}
        store.put([("a", np.zeros(2), 0.0)])
        assert store.count() == 1


@pytest.mark.parametrize("kind", [*map(slow, ("score", "record")), "text"])
def test_a_finished_run_with_damaged_rows_ends_with_the_same(words_task, tmp_path, recorded, kind):
    """Also one whose prompts hold what a model has written: they are read from the store at the end."""
    how = {"recipes": "random,random:loop=notes", "shots": 2, "limit": 10, "out": tmp_path / "run"}
    kshot.adapt(words_task, "scripted", **how)
    before = recorded(tmp_path / "run")
    assert before["results.json"][0]["selections"]
    sql(tmp_path / "run" / "store.sqlite", f"UPDATE kept SET value = value || x'20' WHERE kind = '{kind}'")
    if kind != "record":
        sql(tmp_path / "run" / "store.sqlite", "DELETE FROM kept WHERE kind = 'record'")
    heard = Heard()
    kshot.adapt(words_task, "scripted", **how, progress=heard)
    assert recorded(tmp_path / "run") == before
    assert any("store.sqlite was damaged: " in text for text in heard.said)
    heard.said.clear()
    kshot.adapt(words_task, "scripted", **how, progress=heard)
    assert recorded(tmp_path / "run") == before
    assert not any("damaged" in text for text in heard.said)


def test_predictions_of_other_examples_are_not_used(tmp_path):
    heard = Heard()
    said = [Prediction(e.id, ("a", "b"), (-1.0, -2.0), (0.7, 0.3), "a") for e in STREAM]
    with closing(SqliteStore(tmp_path / "store.sqlite")) as store:
        keep = Kept(store, tmp_path, "key", say=heard.say)
        assert keep.once("r", QUERIES, Ledger(), lambda: said) == said
        assert keep.once("r", QUERIES, Ledger(), lambda: pytest.fail("it is kept")) == said
        for queries in (QUERIES[1:], QUERIES[::-1]):
            made = [replace(said[0], example_id=q.example.id) for q in queries]
            assert keep.once("r", queries, Ledger(), lambda made=made: made) == made
            keep.once("r", QUERIES, Ledger(), lambda: said)
    assert set(heard.said) == {"predictions of other examples were kept; these are predicted again"}


# ---- states of training


@pytest.fixture(scope="module")
def asker():
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


RECIPES = ["fine-tune:lr=1e-2,steps=1,batch=2", "icl+ft:k=0,lr=1e-2,steps=1,steerer=icv(strength=0.1)"]


def trained(asker, recipe, folder, queries=QUERIES, heard=None):
    """Return what a learner predicts, and what it has learnt in the end."""
    with closing(SqliteStore(folder / "store.sqlite")) as store:
        keep = Kept(store, folder / "training", "key", say=(heard or Heard()).say)
        learner = TrainedLearner(parse_recipe(recipe, shots=2, raced=False), Setup(TASK, asker, 0, kept=keep))
        found = [replace(p, seconds=0, fit_seconds=0) for p in learner.predict(queries)]
        return found, {name: t.numpy().tobytes() for name, t in learner.model._weights.tensors().items()}, learner.log


@pytest.fixture(scope="module")
def learnt(asker, tmp_path_factory):
    """Each recipe's results, and a folder where it has predicted five queries and kept the state of four examples."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kshot.learners.trained, "SECONDS_BETWEEN_STATES", 0.0)
        for recipe in RECIPES:
            folders = [tmp_path_factory.mktemp("learnt") for _ in range(2)]
            trained(asker, recipe, folders[0], QUERIES[:5])
            found[recipe] = trained(asker, recipe, folders[1]), folders[0]
    return found


def middle(file: Path) -> int:
    return file.stat().st_size * 2 // 3


STATES = {
    "a tensor": lambda state, other: flip(state, middle(state)),
    "its metadata": lambda state, other: flip(state, state.read_bytes().index(b'learnt\\":')),
    "its header": lambda state, other: flip(state, 3),
    "truncated": lambda state, other: state.write_bytes(state.read_bytes()[:-8]),
    "empty": lambda state, other: state.write_bytes(b""),
    "of something else": lambda state, other: shutil.copy(other, state),
}
RARE = ("its header", "empty", "truncated")


@pytest.mark.parametrize("damage", [slow(name) if name in RARE else name for name in STATES])
def test_a_damaged_state_is_learnt_again_to_the_same_bits(asker, learnt, tmp_path, damage):
    recipe = RECIPES[0]
    expected, folder = learnt[recipe]
    shutil.copytree(folder, tmp_path / "run")
    (state,) = (tmp_path / "run").glob("training/*.safetensors")
    (other,) = learnt[RECIPES[1]][1].glob("training/*.safetensors")
    STATES[damage](state, other)
    heard = Heard()
    assert trained(asker, recipe, tmp_path / "run", heard=heard) == expected
    (said,) = heard.said
    assert said.startswith(f"{recipe} begins to learn again: {state} must be a state of ")
    assert said.endswith("Delete it: training then begins again.")


@pytest.mark.parametrize("file", ["steering.safetensors", slow("steering.json")])
def test_a_damaged_steering_beside_a_state_is_fitted_again(asker, learnt, tmp_path, file):
    expected, folder = learnt[RECIPES[1]]
    shutil.copytree(folder, tmp_path / "run")
    (place,) = (tmp_path / "run").glob(f"training/*steering-4/{file}")
    text = place.read_bytes()  # of what is read: in the JSON the edits' scale, else the last number
    flip(place, text.index(b'"scale"') + 12 if file.endswith("json") else -1)
    heard = Heard()
    assert trained(asker, RECIPES[1], tmp_path / "run", heard=heard) == expected
    assert "begins to learn again" in heard.said[0]
    assert "must hold a steering" in heard.said[0]


def test_a_lost_prediction_before_the_state_is_learnt_again(asker, learnt, tmp_path):
    expected, folder = learnt[RECIPES[0]]
    shutil.copytree(folder, tmp_path / "run")
    sql(tmp_path / "run" / "store.sqlite", "UPDATE kept SET value = replace(value, 'e2', 'e9') WHERE kind = 'record'")
    heard = Heard()
    assert trained(asker, RECIPES[0], tmp_path / "run", heard=heard) == expected
    assert heard.said == [f"{RECIPES[0]} begins to learn again: a prediction from before its state is asked for"]


# ---- gradients


def gradients(asker, folder, heard, how, **store):
    model = replace(asker, gradient_store=GradientStore(folder, say=heard.say, **store))
    return np.array(model.gradients(STREAM, how, seed=0))


LAST = GradientSettings(of="last-block")


@pytest.fixture(scope="module")
def taken(asker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    return gradients(asker, folder, Heard(), LAST), folder


@pytest.mark.parametrize("at", [-1, 8 + 600])  # of the last row; of a checksum
def test_damaged_gradients_are_taken_again(asker, taken, tmp_path, at):
    expected, folder = taken
    shutil.copytree(folder, tmp_path / "g")
    (file,) = (tmp_path / "g").iterdir()
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    flip(file, at if at < 0 else start)
    heard = Heard()
    assert np.array_equal(gradients(asker, tmp_path / "g", heard, LAST), expected)
    assert heard.said == [f"{file.name} was damaged: 1 of its 6 gradients are computed again"]
    heard.said.clear()
    assert np.array_equal(gradients(asker, tmp_path / "g", heard, LAST), expected)
    assert not heard.said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-4000], "it has [0-9]+ bytes instead of [0-9]+"),
        (lambda data: data + b"0", "it has [0-9]+ bytes instead of [0-9]+"),
        (lambda data: data.replace(b'"F32"', b'"F64"'), "or its header is damaged"),
        (lambda data: data[:9] + b"\xff" + data[10:], "it is no file of gradients"),
        (lambda data: b"", "it is no file of gradients"),
    ],
    ids=["shorter", "longer", "another type", "no JSON", "empty"],
)
def test_a_damaged_file_of_gradients(asker, taken, tmp_path, change, reason):
    """It is refused where somebody named the folder, and made anew in a run."""
    expected, folder = taken
    shutil.copytree(folder, tmp_path / "g")
    (file,) = (tmp_path / "g").iterdir()
    file.write_bytes(change(file.read_bytes()))
    heard = Heard()
    with pytest.raises(UserError, match=f"{file} must hold gradients .*{reason}.* Rebuild it with --rebuild"):
        gradients(asker, tmp_path / "g", heard, LAST)
    assert np.array_equal(gradients(asker, tmp_path / "g", heard, LAST, rebuild=True), expected)
    assert heard.said[0].startswith(f"{file.name} is made anew; ")


def test_a_damaged_snapshot_is_made_anew(asker, tmp_path, monkeypatch):
    how, heard = GradientSettings(epochs=1, batch=2, snapshots=3), Heard()
    expected = gradients(asker, tmp_path / "whole", heard, how)
    with monkeypatch.context() as patch:
        patch.setattr("kshot.engine.gradients.ExampleGradients.gradients", lambda *a: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            gradients(asker, tmp_path / "g", heard, how)
    snapshots = sorted((tmp_path / "g").glob("*snapshot*"))
    assert len(snapshots) == 3
    flip(snapshots[1])
    assert np.array_equal(gradients(asker, tmp_path / "g", heard, how), expected)
    assert [text[:50] for text in heard.said] == [f"gradients go on from an earlier step: {snapshots[1]}"[:50]]


# ---- retrievers


@pytest.fixture(scope="module")
def stages(tmp_path_factory, words_task):
    """A run with the stages of one iteration, but for the retriever."""
    folder = tmp_path_factory.mktemp("stages")
    encoder = make_tiny_encoder(folder / "encoder")
    settings = parse_settings(f"encoder={encoder},queries=6,candidates=4,depth=8,epochs=1")
    run = RetrieverRun.start(folder / "run", [str(words_task)], settings=settings)
    run.candidates()
    run.score(kshot.load_model("scripted"))
    run.reward()
    return folder / "run"


def again(folder):
    run = RetrieverRun.open(folder)
    run.candidates()
    run.score(kshot.load_model("scripted"))
    return run.reward()


FAST = "iteration-1/scores.jsonl"
ANEW = "Delete it and run the same command again"
FILES = {
    "iteration-1/candidates.jsonl": rf"must be as kshot wrote it; its last line does not fit the others\. {ANEW}",
    "iteration-1/scores.jsonl": rf"must be as kshot wrote it; its last line does not fit the others\. {ANEW}",
    "iteration-1/targets.jsonl": rf"must be as kshot wrote it; its last line does not fit the others\. {ANEW}",
    "model.json": "All scores of a run must be of one model; by .*model.json they are of",
    "manifest.json": "manifest.json must be as kshot wrote it; its checksum differs",
}
OTHERS = [name for name in FILES if name not in (FAST, "manifest.json")]


@pytest.mark.parametrize("name", [FAST, "manifest.json", *map(slow, OTHERS)])
def test_a_damaged_stage_is_refused_by_name(stages, tmp_path, name):
    shutil.copytree(stages, tmp_path / "run")
    expected, file = again(tmp_path / "run"), tmp_path / "run" / name
    text = file.read_text()
    file.write_text(text.replace("train-1", "train-2", 1).replace('"fingerprint": "', '"fingerprint": "0').replace(
        '"candidates": 4', '"candidates": 5'))  # fmt: skip
    with pytest.raises(UserError, match=FILES[name]):
        again(tmp_path / "run")
    for damaged in (text.encode()[:-9], b"\xff\xfe", b"", b"[" * 10**5):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{tmp_path / 'run'}.*(Delete it|Copy the folder again)"):
            again(tmp_path / "run")
    if name.startswith("iteration"):
        file.unlink()
        assert again(tmp_path / "run") == expected


def test_a_stage_of_other_examples_is_refused(stages, tmp_path):
    shutil.copytree(stages, tmp_path / "run")
    file = tmp_path / "run" / "iteration-1" / "scores.jsonl"
    rows = read_sealed(file)
    for changed, message in (
        ({"documents": ["words/train-99"]}, "must name examples of the tasks; 'words/train-99' is none"),
        ({"scores": ["high"]}, "scores.jsonl must be as kshot wrote it; 0.scores.0: "),
    ):
        write_sealed(file, [rows[0] | changed])
        with pytest.raises(UserError, match=f"{message}.*{ANEW}"):
            again(tmp_path / "run")
