"""`kshot retriever`: stages that go on, and the trained retriever at work in another process."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from encoders import make_tiny_encoder
from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.core.types import Example, Query, Question, Task
from kshot.encoders.encoder import load_encoder
from kshot.evaluators.retrieval import evaluate_retrieval
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.selectors.llm_r import LlmR
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.reports.retrieval_table import by_category
from kshot.retrieval.saved import read_retriever
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.retriever import RetrieverRun, parse_settings
from test_chat import SHAPES, chat_engine, chat_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def quick(encoder):
    """Settings that learn little, at once."""
    return f"encoder={encoder},reward_encoder={encoder},queries=12,candidates=6,depth=12,epochs=1,reward_epochs=1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, words_task, quick):
    """A run of two iterations on one task."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = RetrieverRun.start(folder, [str(words_task)], settings=parse_settings(quick))
    run.train(kshot.load_model("tiny"), iterations=2)
    return folder


@pytest.mark.slow
def test_stages_one_by_one_make_what_train_makes(trained, words_task, quick, run_cli, tmp_path):
    out = tmp_path / "run"
    first = run_cli("retriever", "candidates", words_task, "--out", out, "--settings", quick)
    assert "12 queries with 6 candidates each" in first.out
    assert "72 scores" in run_cli("retriever", "score", out, "--model", "tiny").out
    assert "queries to learn from" in run_cli("retriever", "reward", out).out
    assert f"retriever: {out}" in run_cli("retriever", "distill", out).out.replace("\n", "")
    for stage in ("candidates", "scores", "targets"):
        name = f"iteration-1/{stage}.jsonl"
        assert (out / name).read_text() == (trained / name).read_text()
    ours, theirs = ((f / "iteration-1/retriever/model.safetensors").read_bytes() for f in (out, trained))
    assert ours == theirs
    names = {f.suffix for f in trained.rglob("*") if f.is_file()}
    assert names <= {".json", ".jsonl", ".txt", ".safetensors", ".sqlite", ".sqlite-wal", ".sqlite-shm"}


def test_scores_go_on_where_they_were_stopped(words_task, quick, tmp_path):
    class Stopped(Exception):
        pass

    run = RetrieverRun.start(tmp_path / "run", [str(words_task)], settings=parse_settings(quick))
    run.candidates()
    model, stored = kshot.load_model("tiny"), []

    def stop(n: int) -> None:
        stored.append(n)
        if sum(stored) >= 20:
            raise Stopped

    run.progress.advance = stop
    with pytest.raises(Stopped):
        run.score(model)
    run = RetrieverRun.open(tmp_path / "run")
    ledger = Ledger()
    found = run.score(kshot.load_model("tiny"), ledger=ledger)
    assert ledger.cost.reused >= 20
    assert ledger.cost.scored == 72 - ledger.cost.reused
    whole = RetrieverRun.start(tmp_path / "whole", [str(words_task)], settings=parse_settings(quick))
    whole.candidates()
    assert whole.score(kshot.load_model("tiny")) == found


def test_all_scores_of_a_run_are_of_one_layout(words_task, quick, tmp_path):
    model = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    run = RetrieverRun.start(tmp_path / "run", [str(words_task)], settings=parse_settings(quick))
    run.candidates()
    found = run.score(model, layout="plain")
    run.stage_file(1, "scores").unlink()  # as after an interruption
    with pytest.raises(UserError, match=r"one layout; by .*model\.json theirs is 'plain', now it is 'turns'"):
        run.score(model)
    assert run.score(model, layout="plain") == found
    kept = json.loads((run.folder / "model.json").read_text())
    (run.folder / "model.json").write_text(json.dumps({k: v for k, v in kept.items() if k != "layout"}))
    assert run.score(model, layout="plain") == found  # of a kshot that did not say it


def test_it_is_measured_in_the_layout_that_was_scored(words_task, quick, tmp_path, monkeypatch):
    model = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    run = RetrieverRun.start(tmp_path / "run", [str(words_task)], settings=parse_settings(quick))
    asked = []
    monkeypatch.setattr("kshot.verbs.retriever.evaluate_retrieval", lambda asker, *_, **__: asked.append(asker.layout))
    run.evaluate(model, ["bm25"])
    run.candidates()
    run.score(model, layout="plain")
    run.evaluate(model, ["bm25"])
    run.evaluate(model, ["bm25"], layout="block")
    run.evaluate(kshot.load_model("tiny"), ["bm25"])
    assert [layout.record["layout"] for layout in asked] == ["turns", "plain", "block", "plain"]


def test_evaluate_compares_with_others(trained, run_cli):
    rows = run_cli("retriever", "evaluate", trained, "--model", "tiny", "-k", "3", "--limit", "4", "--json").json
    assert [row["selector"] for row in rows] == ["random:fresh=true", "bm25", "dense", "llm-r"]
    for row in rows:
        assert row["n"] == 4
        assert row["one_shot_nats"] < 0
        assert 0 <= row["recall"] <= 1
        assert row["metric_name"] == "accuracy"
        assert row["low"] <= row["metric"] <= row["high"]
    text = run_cli("retriever", "evaluate", trained, "--model", "tiny", "-k", "3", "--limit", "4", "--against", "").out
    assert "words (accuracy)" in text
    assert "mean of" not in text  # of one task there is none


@pytest.mark.slow
def test_held_out_tasks_are_measured_and_not_learnt_from(words_task, quick, tmp_path, run_cli):
    other = write_task(tmp_path / "other", labelled_rows(20, start=40), labelled_rows(4, start=70))
    run = RetrieverRun.start(
        tmp_path / "run", [str(words_task), str(other)], held_out=["other"], settings=parse_settings(quick)
    )
    run.train(kshot.load_model("tiny"), iterations=1)
    assert {row.query.task.name for row in run.candidates()} == {"words"}
    assert set(run.pools) == {"words"}  # nor are its texts negatives
    rows = run_cli("retriever", "evaluate", run.folder, "--model", "tiny", "-k", "3", "--against", "", "--json").json
    assert [(row["task"], row["held_out"]) for row in rows] == [("words", False), ("other", True)]


@pytest.mark.slow
def test_a_trained_retriever_answers_in_another_process(trained, words_task, tmp_path):
    recipe = f"llm-r:retriever={trained},k=3"
    run = kshot.adapt(str(words_task), "tiny", recipes=recipe, out=tmp_path / "run", limit=6)
    best = tmp_path / "run" / "best"
    assert (best / "retriever" / "model.safetensors").exists()
    inputs = ["the cat and the saw", "a cake"]
    code = f"import kshot; print(kshot.load({str(best)!r}).predict_proba({inputs!r}).tolist())"
    moved = trained.with_name("elsewhere")
    trained.rename(moved)  # the folder that it was trained in is not needed any more
    try:
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    finally:
        moved.rename(trained)
    assert json.loads(there) == run.best.predict_proba(inputs).tolist()


@pytest.mark.slow
def test_one_that_learns_in_the_run_is_saved_too(quick, tmp_path):
    task = write_task(tmp_path / "task", labelled_rows(40))
    run = kshot.adapt(str(task), "tiny", recipes=f"llm-r:k=2,{quick}", out=tmp_path / "run", limit=36)
    rows = run.predictions["llm-r:k=2," + quick] if hasattr(run, "predictions") else None
    assert rows is None or len(rows) == 36
    probabilities = run.best.predict_proba(["a cat"]).tolist()
    assert kshot.load(tmp_path / "run").predict_proba(["a cat"]).tolist() == probabilities


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("score", "RUN"), "--model must be given"),
        (("candidates", "TASK", "--out", "NEW", "--settings", "candidates=30"), "'words' has 24 different ones"),
        (("candidates", "TASK", "--out", "NEW", "--settings", "candidate=3"), "has no setting 'candidate'"),
        (("candidates", "TASK", "--out", "NEW", "--hold-out", "x"), "--hold-out must name given tasks (words); got x"),
        (("candidates", "TASK", "--out", "NEW", "--hold-out", "words"), "all are held out"),
        (("candidates", "TASK", "--out", "RUN"), "holds a run with another"),
        (("reward", "RUN", "--iteration", "5"), "run `kshot retriever score` first"),
        (("distill", "RUN", "--iteration", "5"), "run `kshot retriever reward` first"),
        (("candidates", "TASK", "--out", "RUN", "--settings", "QUICK", "--iteration", "5"), "retriever distill` first"),
        (("train", "TASK", "--out", "NEW", "--iterations", "0", "--model", "tiny"), "--iterations must be 1 or more"),
        (("score", "RUN", "--model", "scripted"), "All scores of a run must be of one model"),
        (("evaluate", "RUN", "--model", "tiny", "--against", "diverse"), "must choose for each query; 'diverse' does"),
        (("score", "EMPTY", "--model", "tiny"), "give a folder that `kshot retriever` wrote."),
    ],
)
def test_what_is_refused(args, message, trained, words_task, quick, run_cli, tmp_path):
    places = {"RUN": trained, "TASK": words_task, "NEW": tmp_path / "new", "QUICK": quick, "EMPTY": tmp_path / "none"}
    found = run_cli("retriever", *(places.get(arg, arg) for arg in args))
    assert found.code == 2, found.err
    assert message in found.err.replace("\n", " ")


def test_selectors_refuse_what_is_no_retriever_or_of_another_encoder(trained, tmp_path):
    with pytest.raises(UserError, match=r"must be a retriever that kshot trained .* no readable retriever.json"):
        LlmR(retriever=str(tmp_path))
    with pytest.raises(UserError, match=r"encoder must be that of the retriever; .* got 'other/encoder'"):
        LlmR(retriever=str(trained), encoder="other/encoder")
    with pytest.raises(UserError, match=r"^mmr must be in 0..1; got 2"):
        LlmR(mmr=2)
    with pytest.raises(UserError, match=r"^llm-r:mmr must be in 0..1; got 2"):
        parse_recipe("llm-r:mmr=2", shots=4)
    with pytest.raises(UserError, match="^iterations must be 1 or more; got 0"):
        LlmR(iterations=0)
    with pytest.raises(UserError, match="^llm-r:iterations must be 1 or more; got 0"):
        parse_recipe("llm-r:iterations=0", shots=4)
    about = trained / "iteration-2" / "retriever" / "retriever.json"
    text = about.read_text()
    about.write_text(text.replace('"format": 1', '"format": 9'))
    try:
        with pytest.raises(UserError, match="must have format 1, which this kshot reads; got 9"):
            LlmR(retriever=str(trained))
    finally:
        about.write_text(text)


def test_a_copy_beside_the_iterations_is_not_the_last_one(trained):
    copy = trained / "iteration-2-old" / "retriever"
    copy.mkdir(parents=True)
    try:
        assert read_retriever(trained).folder == trained / "iteration-2" / "retriever"
    finally:
        copy.rmdir()
        copy.parent.rmdir()


def test_where_the_rules_leave_nothing_it_is_said(quick, tmp_path):
    rows = [{"input": f"text {i}", "output": str(i)} for i in range(20)]
    task = write_task(tmp_path / "task", rows, card={"kind": "classification"})
    run = RetrieverRun.start(tmp_path / "run", [str(task)], settings=parse_settings(f"{quick},label_rule=true"))
    run.candidates()
    run.score(kshot.load_model("tiny"))
    with pytest.raises(UserError, match="three candidates within the rules; there is none. .* label_rule=false"):
        run.reward()


def test_tasks_whose_answers_are_sets_of_labels_are_refused(quick, tmp_path):
    rows = [{"input": f"text {i}", "output": ["a", "b"][: i % 3]} for i in range(20)]
    task = write_task(tmp_path / "task", rows, card={"kind": "multi_label"})
    with pytest.raises(UserError, match="tasks with one right answer a row; 'task' is multi_label, .* Leave it out"):
        RetrieverRun.start(tmp_path / "run", [str(task)], settings=parse_settings(quick))


def test_adapt_says_what_a_retriever_knows_already(trained, words_task, tmp_path, run_cli):
    args = ("--model", "tiny", "--recipes", f"llm-r:retriever={trained},k=2", "--limit", "3", "--out", tmp_path / "r")
    said = run_cli("adapt", words_task, *args).err.replace("\n", " ")
    found = re.search(r"its retriever has learnt from (\d+) of the 24 examples; what is measured on these is too", said)
    assert found
    assert 12 < int(found[1]) <= 24  # it was asked about 12, and has seen others beside them with their answers


def test_runs_of_adapt_are_none_of_retriever(words_task, tmp_path, run_cli):
    kshot.adapt(str(words_task), "tiny", recipes="zero-shot", out=tmp_path / "run", limit=3)
    found = run_cli("retriever", "reward", tmp_path / "run")
    assert found.code == 2
    assert "must be a run of `kshot retriever`" in found.err


def test_selection_equals_brute_force(trained, words_task):
    task = Task.load(str(words_task))
    pool, query = task.train[:12], task.test[0]
    model = load_encoder(str(trained / "iteration-2" / "retriever"))
    documents = model.embed([f"{e.input}\n{e.output}" for e in pool])
    nearest = (documents @ model.embed([query.input])[0]).argsort()[::-1][:4].tolist()
    small = Task("t", task.kind, pool, labels=task.labels)
    chosen = kshot.select(small, f"llm-r:retriever={trained}", 4, query=query)
    assert [e.id for e in chosen] == [pool[i].id for i in nearest[::-1]]  # the best stands next to the query


class Known:
    """An encoder that knows what its texts mean."""

    def __init__(self, **vectors: tuple[float, ...]):
        self.vectors = vectors

    def embed(self, texts):
        return np.array([self.vectors[text.split()[0]] for text in texts])


class Nobody:
    """A model that is not asked."""

    task = Task("t", "generation", ())
    progress = Silence()


def test_near_copies_give_way_with_mmr():
    encoder = Known(query=(1, 0, 0), best=(0.9, 0.4, 0), copy=(0.89, 0.41, 0), other=(0.7, 0, 0.7), far=(0, 0, 1))
    pool = [Example(text, "answer", text) for text in ("far", "copy", "other", "best")]

    def chosen(**settings: float) -> list[str]:
        selector = LlmR(**settings, _encoder=encoder).fit(pool, model=Nobody(), rng=generator(0))
        found = selector.select(Question("query", "q"), 3, rng=generator(0))
        return [pool[i].id for i in found]

    assert chosen() == ["other", "copy", "best"]
    assert chosen(mmr=0.5) == ["copy", "other", "best"]
    assert chosen(mmr=0.9) == ["other", "far", "best"]


def test_along_a_stream_it_learns_from_the_past_alone_whenever_that_has_doubled():
    lessons: list[int] = []

    @dataclass(frozen=True)
    class Learning(LlmR):
        def learnt(self, pool, *, model, rng):
            lessons.append(len(pool))
            return replace(self, _encoder=Known(text=(1, 0), **{"": (0, 1)}))

        def fit(self, pool, *, model, rng):
            assert self.has_learnt
            lessons.append(-len(pool))
            return super().fit(pool, model=model, rng=rng)

    examples = tuple(Example(f"text {i}", "ab"[i % 2], str(i)) for i in range(9))
    task = Task("t", "classification", examples, labels=("a", "b"))
    recipe = parse_recipe("llm-r:k=2", shots=2).having(selector=Learning())
    learner = make_learner(recipe, Setup(task, TaskModel.for_task(task, ScriptedModel()), 0))
    learner.predict([Query(e, examples[:i]) for i, e in enumerate(examples)])
    assert lessons == [1, -1, 2, -2, -3, 4, -4, -5, -6, -7, 8, -8]


def test_the_benchmark_of_feedback_compares_equal_things(run_cli, monkeypatch):
    for name, few in {"N_POOL": 6, "N_QUERIES": 5, "N_CANDIDATES": 4, "N_TOKENS": 20, "N_NAIVE": 4}.items():
        monkeypatch.setattr(f"kshot.bench.llm_feedback.{name}", few)
    found = run_cli("bench", "llm-feedback", "--model", "tiny", "--json").json
    assert found["max_abs_diff_nats"] < 1e-4
    assert found["pairs_per_second"] > 0
    assert found["speedup_vs_naive"] > 0


@pytest.mark.slow
def test_feedback_is_fast_and_exact_on_the_real_model(run_cli):
    found = run_cli("bench", "llm-feedback", "--json").json
    assert found["speedup_vs_naive"] >= 4
    assert found["max_abs_diff_nats"] <= 1e-3


@pytest.mark.parametrize(("n", "k", "has_recall"), [(6, 5, True), (6, 6, False), (40, 31, True), (40, 32, False)])
def test_recall_is_told_only_where_not_all_are_retrieved(n, k, has_recall):
    rows = tuple(Example(f"word {i}", ("a", "b")[i % 2], f"e{i}") for i in range(n))
    task = Task("t", "classification", rows, labels=("a", "b"))
    model = TaskModel.for_task(task, ScriptedModel())
    found = evaluate_retrieval(
        model, parse_recipe("bm25", shots=k), rows, [Example("word 1", "a", "q")], seed=0
    ).summary()
    assert (found["recall"] is not None) is has_recall
    (line,) = by_category([{"task": "t", "kind": task.kind, "held_out": False, "selector": "bm25", **found}])[1:]
    assert (line.split()[-2] == "-") is not has_recall


def test_the_table_never_mixes_metrics_nor_held_out_tasks():
    def row(task: str, kind: str, metric: str, value: float, *, held_out: bool = False) -> dict[str, object]:
        measured = {"one_shot_nats": -value, "recall": 0.5, "metric": value, "metric_name": metric}
        return {"task": task, "kind": kind, "held_out": held_out, "selector": "bm25", **measured}

    rows = [
        row("a", "classification", "accuracy", 0.25),
        row("b", "classification", "accuracy", 0.75),
        row("c", "classification", "macro_f1", 0.1),
        row("d", "classification", "accuracy", 0.9, held_out=True),
    ]
    lines = [" ".join(line.split()) for line in by_category(rows)]
    assert lines[1:] == [
        "a (accuracy) bm25 -0.250 0.500 0.250",
        "b (accuracy) bm25 -0.750 0.500 0.750",
        "c (macro_f1) bm25 -0.100 0.500 0.100",
        "held out: d (accuracy) bm25 -0.900 0.500 0.900",
        "mean of classification (accuracy) bm25 -0.500 0.500 0.500",
        "mean of classification (macro_f1) bm25 -0.100 0.500 0.100",
        "mean of held out: classification (accuracy) bm25 -0.900 0.500 0.900",
    ]
