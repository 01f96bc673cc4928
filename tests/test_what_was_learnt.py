"""What a saved model has learnt from is known to it: a test row among it is told, whatever the recipe."""

import json
from typing import Any

import pytest

import kshot
from conftest import labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.adapted.seal import write_seal
from kshot.core.progress import Silence
from kshot.core.types import Example, Task
from kshot.learners.fitted import fingerprint
from kshot.learners.learner import Setup, Source
from kshot.recipes.grammar import parse_recipe
from kshot.retrieval.corpus import Item
from kshot.retrieval.saved import fingerprint as query_fingerprint
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.evaluate import evaluate

LABELS = ("animal", "food", "tool")
ROWS = tuple(Example(r["input"], r["output"], f"r{i}") for i, r in enumerate(labelled_rows(14)))
TASK = Task("words", "classification", ROWS[:8], ROWS[8:10], labels=LABELS)
ON_TRAIN = Task("again", "classification", (), (*ROWS[:8], *ROWS[10:12]), labels=LABELS)
CASES = {  # recipe -> how many of the 8 it has learnt from
    "zero-shot": 0,
    "majority": 8,
    "tfidf-lr": 8,
    "random": 2,
    "bm25": 8,
    "all-past": 8,
    "best-of-n:n=2,queries=2": 8,
    "fine-tune:lr=1e-3,steps=1": 8,
    "icv:strength=0.1": 8,
    "all-past:generator=word-edits": 8,
    "average(zero-shot,random)": 2,
    "average(zero-shot,majority)": 8,
}


def told(n: int, n_rows: int) -> str:
    learnt = f"note: {n} of {n_rows} test rows are among the examples that were learnt"
    return f"{learnt}, so these numbers say little about new inputs"


class Listens(Silence):
    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return kshot.load_model("tiny")


def fit(recipe: str, model: Any, examples: Any = ROWS[:8], **setup: Any) -> AdaptedModel:
    asked = Setup(TASK, TaskModel.for_task(TASK, model), 0, **setup)
    return AdaptedModel.fit(parse_recipe(recipe, shots=2), examples, asked, choice={})


@pytest.mark.parametrize(("recipe", "n"), CASES.items())
def test_rows_that_were_learnt_are_told_before_and_after_saving(recipe, n, tiny, tmp_path):
    adapted = fit(recipe, tiny)
    adapted.save(tmp_path / "model")
    for one in (adapted, kshot.load(tmp_path / "model", model=tiny), adapted.with_model(tiny)):
        progress = Listens()
        assert one.tell_learnt(ON_TRAIN, progress) == n
        assert progress.said == ([told(n, 10)] if n else [])
        assert one.tell_learnt(TASK, Silence()) == 0
    # Fingerprints, no texts, and only where there is something to tell
    file = tmp_path / "model" / "learnt.txt"
    assert file.exists() == (n > 0)
    if n:
        marks = file.read_text().split()
        assert marks == sorted(marks)
        assert set(marks) >= {fingerprint(e) for e in adapted.pool}
        assert {len(mark) for mark in marks} == {16}


def test_the_same_question_with_other_white_space_was_learnt(tiny):
    adapted = fit("majority", tiny)
    spaced = Example(f"  {ROWS[0].input.replace(' ', '  ')}\n", ROWS[0].output, "x")
    other = Example(ROWS[0].input, ROWS[0].output, "y", context="with a context")
    task = Task("t", "classification", (), (spaced, other), labels=LABELS)
    assert adapted.tell_learnt(task, Silence()) == 1


def test_evaluate_tells_it_in_its_json_too(run_cli, words_task, tmp_path):
    out = tmp_path / "run"
    how = ("--model", "scripted", "--recipes", "majority,tfidf-lr", "--shots", 3, "--limit", 5, "--out", out)
    assert run_cli("adapt", words_task, *how).code == 0
    found = run_cli("evaluate", out, words_task / "train.jsonl", "--json")
    assert found.json["n_learnt"] == 24  # those beyond the limit were learnt too
    assert "24 of 24 test rows are among the examples that were learnt" in found.err
    assert run_cli("evaluate", out, words_task, "--json").json["n_learnt"] == 0
    suite = run_cli("evaluate", out, words_task / "train.jsonl", "--suite", "letter-case", "--json")
    assert suite.json["n_learnt"] == 24
    assert "24 of 24 test rows" in suite.err


def test_the_estimator_and_an_evaluator_know_it_too():
    texts, labels = [e.input for e in ROWS], [e.output for e in ROWS]
    classifier = kshot.FewShotClassifier("scripted", recipe="tfidf-lr").fit(texts[:9], labels[:9])
    task = Task("t", "classification", (), ROWS, labels=tuple(sorted(LABELS)))
    assert classifier.adapted_.evaluate(task)["n_learnt"] == 9
    progress = Listens()
    assert evaluate(classifier.adapted_, task, "letter-case", progress=progress)["n_learnt"] == 9
    assert progress.said == [told(9, 14)]
    other, progress = kshot.FewShotClassifier("scripted", recipe="tfidf-lr").fit(texts[:12], labels[:12]), Listens()
    found = evaluate(classifier.adapted_, task, "letter-case", against=other.adapted_, progress=progress)
    assert (found["n_learnt"], found["n_learnt_against"]) == (9, 12)
    beside = told(12, 14).replace("learnt,", "learnt by the system that it is held against,")
    assert progress.said == [told(9, 14), beside]


@pytest.mark.slow  # trains twice
def test_a_source_task_was_learnt_from_where_it_was_aligned_with(tiny):
    other = Task("other", "classification", ROWS[10:12], labels=LABELS)
    source = Source(TaskModel.for_task(other, tiny), other.train)
    aligned = fit("fine-tune:lr=1e-3,steps=1,align=gate", tiny, ROWS[:3], source=source)
    assert aligned.tell_learnt(ON_TRAIN, Silence()) == 3 + 2
    assert fit("majority", tiny, ROWS[:3], source=source).tell_learnt(ON_TRAIN, Silence()) == 3


def test_what_a_retriever_has_learnt_before_counts_once(tiny, monkeypatch):
    """A retriever of another run keeps marks of its own; `average` asks it in each of its members."""
    from kshot.methods.selectors import bm25

    known = {query_fingerprint(Item(TASK, e)) for e in (ROWS[0], ROWS[10])}
    monkeypatch.setattr(
        bm25.Bm25,
        "known",
        lambda self, task: frozenset(e.id for e in task.train if query_fingerprint(Item(task, e)) in known),
    )
    for recipe in ("bm25", "average(bm25,bm25:k=1)"):
        assert fit(recipe, tiny).tell_learnt(ON_TRAIN, Silence()) == 8 + 1
        assert len(parse_recipe(recipe, shots=2).known(TASK)) == 1


def test_a_model_saved_before_knows_what_it_shows(tiny, tmp_path):
    fit("bm25", tiny).save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "kshot.json").read_text())["format"] == 5
    (tmp_path / "model" / "learnt.txt").unlink()
    write_seal(tmp_path / "model")
    assert kshot.load(tmp_path / "model", model=tiny).tell_learnt(ON_TRAIN, Silence()) == 8
