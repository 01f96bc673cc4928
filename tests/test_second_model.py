"""Everything also runs with a second, different model: SmolLM2-135M-Instruct, a chat model of Llama's shape."""

import pytest

import kshot
from conftest import write_task

pytestmark = pytest.mark.slow
WORDS = ("red", "blue", "green", "one", "two", "six", "cat", "dog")
RECIPES = (
    "zero-shot,random,diverse,best-of-n:n=2,queries=4,bm25:calibration=contextual,dense,"
    "gradient-matching:epochs=1,snapshots=2,random:order=most-confident-last,icv,"
    "soft-injection:prompts=4,steps=8,every=4"
)


@pytest.fixture
def model(smollm2):
    return smollm2


@pytest.mark.parametrize("layout", ["turns", "block", "plain"])
def test_a_classification_in_every_layout(model, words_task, tmp_path, layout):
    run = kshot.adapt(words_task, model, recipes=RECIPES, shots=4, limit=12, layout=layout, out=tmp_path / "run")
    assert [row["status"] for row in run.leaderboard] == ["done"] * 10
    best = kshot.load(tmp_path / "run")
    test = kshot.Task.load(words_task).test
    assert best.predict([e.input for e in test]) == run.best.predict([e.input for e in test])
    assert best.evaluate(kshot.Task.load(words_task))["n"] == 6


def test_multiple_choice_and_an_open_task(model, quiz_task, tmp_path):
    run = kshot.adapt(quiz_task, model, recipes="zero-shot,random", shots=4, limit=8, out=tmp_path / "quiz")
    assert {row["status"] for row in run.leaderboard} == {"done"}
    rows = [{"input": f"say {w} twice", "output": f"{w} {w}"} for w in WORDS]
    task = write_task(tmp_path / "twice", rows, rows[:2], {"kind": "generation", "instruction": "Do what is asked."})
    run = kshot.adapt(task, model, recipes="zero-shot,bm25", shots=4, out=tmp_path / "open")
    assert run.chosen == "bm25"
    assert run.best.predict(["say house twice"]) == ["house house"]
    assert run.best.evaluate(kshot.Task.load(task))["n"] == 2


def test_the_selector_model_may_differ(model, words_task, tmp_path):
    task = kshot.Task.load(words_task)
    tiny = kshot.load_model("tiny")
    chosen = {m: [kshot.select(task, "best-of-n", 4, model=m, seed=seed) for seed in range(4)] for m in (model, tiny)}
    assert chosen[model] != chosen[tiny]
    run = kshot.adapt(task, tiny, recipes="best-of-n", shots=4, selector_model=model, out=tmp_path / "run")
    assert list(run.best.pool) == kshot.select(task, "best-of-n", 4, model=model)
