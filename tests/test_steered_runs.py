"""Steerers at work: along a stream, beside selectors and tuners, in the adapted model, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.seal import write_seal
from kshot.bench import steered_queries
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.settings import RunSettings
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example, Prompt, Query, ScoreRequest, Segment, Task
from kshot.engine.language_model import Engine
from kshot.learners import trained
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.steerers.icv import direction
from kshot.models.tiny import tiny_backbone
from kshot.race.stream import make_stream
from kshot.recipes.catalogue import describe_recipes
from kshot.recipes.grammar import parse_recipe, parse_recipes
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from kshot.verbs.plan import plan
from kshot.verbs.prepare import prepare

SMALL = "soft-injection:prompts=2,shots=2,steps=4,every=2"
INPUTS = ["the cat and the axe", "rice"]


def words(n: int = 12) -> Task:
    rows = tuple(Example(r["input"], r["output"], str(i)) for i, r in enumerate(labelled_rows(n)))
    return Task("words", "classification", rows, labels=("animal", "food", "tool"))


def asker(seed: int = 0) -> TaskModel:
    return TaskModel.for_task(words(), Engine(tiny_backbone(seed=seed)))


def stream(examples) -> list[Query]:
    return [Query(e, tuple(examples[:i])) for i, e in enumerate(examples)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks") / "words", labelled_rows(9), labelled_rows(3, start=9))


# Along a stream


@pytest.mark.parametrize("name", ["icv", SMALL, "icv:selector=bm25,k=2,strength=0.1"])
def test_a_prediction_knows_nothing_of_what_comes_later(name):
    examples = words().train
    recipe = parse_recipe(name, shots=2)
    found = make_learner(recipe, Setup(words(), asker(), 0)).predict(stream(examples))
    other = [*examples[:6], *[replace(e, output="tool") for e in examples[6:]]]
    again = make_learner(recipe, Setup(words(), asker(), 0)).predict(stream(other))
    assert [p.log_probs for p in again[:7]] == [p.log_probs for p in found[:7]]
    assert [p.log_probs for p in again[9:]] != [p.log_probs for p in found[9:]]
    alone = make_learner(recipe, Setup(words(), asker(), 0)).predict([stream(examples)[10]])[0]
    np.testing.assert_allclose(alone.log_probs, found[10].log_probs, atol=1e-4)


def test_before_there_are_enough_examples_nothing_is_steered_and_fits_are_counted():
    examples = words().train
    found = make_learner(parse_recipe(SMALL, shots=1), Setup(words(), asker(), 0)).predict(stream(examples))
    bare = make_learner(parse_recipe("zero-shot", shots=1), Setup(words(), asker(), 0)).predict(stream(examples))
    np.testing.assert_allclose([p.log_probs for p in found[:4]], [p.log_probs for p in bare[:4]], atol=1e-4)
    assert all(p.log_probs != q.log_probs for p, q in zip(found[4:], bare[4:], strict=True))
    assert [i for i, p in enumerate(found) if p.fit_tokens] == [4, 8]
    assert [p.prompt_tokens for p in found] == [p.prompt_tokens for p in bare]


def test_beside_a_selector_the_prompts_are_the_selectors():
    examples = words().train
    steered, plain = (
        make_learner(parse_recipe(name, shots=2), Setup(words(), asker(), 0)).predict(stream(examples))
        for name in ("icv:selector=bm25,k=2,strength=0.1", "bm25:k=2")
    )
    assert [p.demonstrations for p in steered] == [p.demonstrations for p in plain]
    assert all(p.log_probs != q.log_probs for p, q in zip(steered[2:], plain[2:], strict=True))


def test_what_a_steerer_beside_a_tuner_asks_is_counted(tmp_path):
    examples = words(8).train
    setup, recipe = (
        Setup(words(), asker(), 0),
        parse_recipe(f"fine-tune:steerer={SMALL.replace(':', '(')}),lr=1e-3,steps=1", shots=1),
    )
    one = TrainedLearner(recipe, setup)
    found = one.predict(stream(examples))
    trained = [3 * sum(row["tokens"] for row in one.log if row["n"] == n) for n in range(len(examples))]
    assert [n for n, p in enumerate(found) if p.fit_tokens > trained[n]] == [4]
    assert sum(p.tokens + p.fit_tokens for p in found) == pytest.approx(setup.model.ledger.cost.tokens)

    kept = [
        Setup(words(), asker(), 0, kept=Kept(SqliteStore(tmp_path / "store.sqlite"), tmp_path / "training", "key"))
        for _ in range(2)
    ]
    first = TrainedLearner(recipe, kept[0])
    first.predict(stream(examples)[:6])
    first.save_state()
    again = TrainedLearner(recipe, kept[1]).predict(stream(examples))
    assert [p.fit_tokens for p in again] == [p.fit_tokens for p in found]
    assert kept[1].model.ledger.cost.tokens == pytest.approx(setup.model.ledger.cost.tokens)


def test_beside_a_tuner_an_interrupted_stream_goes_on_to_the_same(tmp_path):
    examples = words(6).train
    recipe = parse_recipe("fine-tune:steerer=icv,lr=1e-3,steps=1", shots=1)
    assert "steerer" in recipe.parts

    def learner(place: Path) -> TrainedLearner:
        keep = Kept(SqliteStore(place / "store.sqlite"), place / "training", "key")
        return TrainedLearner(recipe, Setup(words(), asker(), 0, kept=keep))

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = learner(tmp_path / "whole").predict(stream(examples))
    first = learner(tmp_path / "cut")
    first.predict(stream(examples)[:5])
    first.save_state()
    second = learner(tmp_path / "cut")
    resumed = second.predict(stream(examples))
    assert [p.log_probs for p in resumed] == [p.log_probs for p in whole]
    plain = TrainedLearner(parse_recipe("fine-tune:lr=1e-3,steps=1", shots=1), Setup(words(), asker(), 0))
    bare = plain.predict(stream(examples))
    assert [i for i, (p, q) in enumerate(zip(whole, bare, strict=True)) if p.log_probs != q.log_probs] == [*range(2, 6)]
    second.save_state()
    assert [f.name.rpartition("-")[2] for f in (tmp_path / "cut" / "training").glob("*.steering-*")] == ["4"]
    second.forget()
    assert not list((tmp_path / "cut" / "training").glob("*.steering-*"))


def test_whoever_learns_all_at_once_finds_one_steering(monkeypatch):
    known = list[int]()
    monkeypatch.setattr(trained, "fitted_steering", lambda recipe, some, model, seed: known.append(len(some)))
    recipe = parse_recipe("fine-tune:steerer=icv,lr=1e-3,steps=1", shots=1)
    TrainedLearner(recipe, Setup(words(), asker(), 0)).fit(words(6).train)
    assert known == [6]
    TrainedLearner(recipe, Setup(words(), asker(), 0)).predict(stream(words(6).train))
    assert known == [6, 1, 2, 4]


# The adapted model


@pytest.mark.parametrize(
    "recipe", ["icv:selector=random,k=2", pytest.param("fine-tune:steerer=icv,lr=1e-3,steps=1", marks=pytest.mark.slow)]
)
def test_an_adapted_model_is_saved_with_its_steering(folder, recipe, tmp_path):
    model = Engine(tiny_backbone())
    run = kshot.adapt(folder, model, recipes=recipe, out=tmp_path / "run", limit=6)
    best = tmp_path / "run" / "best"
    about = json.loads((best / "steering.json").read_text())
    assert {(e["layer"], e["site"], len(e["scale"])) for e in about["edits"]} == {(0, "mlp", 1), (1, "mlp", 1)}
    assert json.loads((best / "kshot.json").read_text())["choice"]["steering"]["steerer"] == "icv"
    expected = run.best.predict_proba(INPUTS)
    loaded = kshot.load(best, model=model)
    assert loaded.predict_proba(INPUTS).tobytes() == expected.tobytes()
    if loaded.recipe.trains:
        with pytest.raises(UserError, match="steers the model too, which cannot be worked into weights"):
            loaded.save_merged(tmp_path / "merged")
    again = kshot.adapt(folder, model, recipes=recipe, out=tmp_path / "run", limit=6)
    assert again.best.predict_proba(INPUTS).tobytes() == expected.tobytes()
    bare = replace(loaded.fitted, recipe=loaded.recipe.without("steerer"), steering=None)
    plain = kshot.AdaptedModel(bare, choice={})
    assert plain.predict_proba(INPUTS).tobytes() != expected.tobytes()
    (-Steering.load(best)).save(best)
    write_seal(best)
    with pytest.raises(UserError, match=r"must hold the steering that kshot\.json tells of; it holds another\. Adapt"):
        kshot.load(best, model=model)


def test_the_table_of_recipes_names_the_steerers():
    rows = {row["name"]: row for row in describe_recipes()}
    assert rows["icv"]["steerer"] == "icv"
    assert rows["icv"]["needs"] == ["activations", "score"]
    assert rows["bm25"]["steerer"] is None
    names = [r.name for r in parse_recipes("all", shots=2)]
    assert "icv" in names
    assert not {"soft-injection", "function-vector", "random-direction"} & set(names)


def test_a_model_without_activations_is_refused_before_any_work(folder, tmp_path):
    with pytest.raises(UserError, match=r"The recipe 'icv' needs a model that can be steered; give another --model\."):
        kshot.adapt(folder, "scripted", recipes="icv", out=tmp_path / "run")


# On its own


def test_a_steering_on_its_own_is_that_of_the_adapted_model(folder, tmp_path):
    model = Engine(tiny_backbone())
    found = kshot.steer(str(folder), "icv", model=model, seed=3)
    run = kshot.adapt(folder, model, recipes="icv", out=tmp_path / "run", limit=4, seed=3)
    assert found.fingerprint == run.best.steering.fingerprint
    for name in ("bm25", "fine-tune:steerer=icv", "icv:selector=bm25,k=2"):
        with pytest.raises(UserError, match="steer needs a steerer alone, such as 'icv' or 'soft-injection'; got"):
            kshot.steer(str(folder), name, model=model)
    few = Task("few", "classification", words().train[:3], labels=("animal", "food", "tool"))
    with pytest.raises(UserError, match="'soft-injection' needs at least 4 different examples; got 3"):
        kshot.steer(few, "soft-injection", model=model)
    with pytest.raises(UserError, match="Steering needs a model with weights; 'scripted' has none. Give another"):
        kshot.steer(words(), "icv", model="scripted")
    sets = Task("sets", "multi_label", words().train, labels=("animal", "food", "tool"), metrics=("micro_f1",))
    with pytest.raises(UserError, match="'soft-injection' is for tasks of other kinds; 'sets' is multi_label. Take"):
        kshot.steer(sets, "soft-injection", model=model)


def test_a_dry_run_counts_what_a_run_runs(folder, tmp_path):
    task, model = Task.load(folder), Engine(tiny_backbone())
    names = ("icv", SMALL, "function-vector:prompts=2,shots=2,heads=2", "icv:selector=random,k=2")
    planned = plan(prepare(RunSettings(task, model, recipes=",".join(names), shots=2)))
    for row, name in zip(planned, names, strict=True):
        asked = TaskModel.for_task(task, model)
        learner = make_learner(parse_recipe(name, shots=2), Setup(task, asked, 0))
        learner.predict(make_stream(task, limit=300, seed=0).queries())
        assert row["forward_tokens"] == pytest.approx(asked.ledger.cost.tokens, rel=0.25)
    assert row["recipe"] == names[-1]


@pytest.mark.slow
def test_a_steered_query_costs_at_most_a_tenth_more():
    found = steered_queries.run("demo")
    assert max(found[f"{name}_ratio"] for name in ("icv", "function_vector", "soft_injection")) <= 1.1
    assert found["max_abs_diff_nats"] <= 1e-3


@pytest.mark.slow
def test_an_in_context_vector_turns_words_to_capitals_with_its_strength():
    """The paper's experiment: the odds of the target style rise with lambda, in the end at the price of the text."""
    model = kshot.load_model("demo")
    words = ["apple", "river", "window", "horse", "garden", "teacher", "summer", "bread", "mountain", "paper"]

    def at_end(texts):
        return model.activations.read([Prompt((Segment("query", t),)) for t in texts], "block")

    found = direction(at_end([w.upper() for w in words]) - at_end(words))

    def steered_by(strength):
        weights = np.array([strength], dtype=np.float32)
        return model.steered(Steering(tuple(Edit(i, "mlp", "turn", False, v[None], weights)
                                            for i, v in enumerate(found))))  # fmt: skip

    request = ScoreRequest(Prompt((Segment("query", "I have seen"),)), (" CAT", " DOG", " cat", " dog"))
    text = ScoreRequest(Prompt((Segment("query", "She opened the door and"),)), (" saw that the garden was green.",))
    odds, fluency = [], []
    for strength in (-0.05, 0.0, 0.05, 0.1):
        scores, texts = steered_by(strength).score([request, text])
        odds.append(np.logaddexp(*scores[:2]) - np.logaddexp(*scores[2:]))
        fluency.append(texts[0])
    assert odds == sorted(odds)
    assert odds[-1] - odds[1] > 5
    assert fluency[-1] < fluency[1]


@pytest.mark.slow
def test_a_run_says_that_a_steered_model_repeats_itself(tmp_path):
    rows = [{"input": f"say {w} now", "output": f"{w} {w}"} for w in ("hat", "cat", "rat", "bat", "mat", "sat")]
    task = write_task(tmp_path / "task", rows, card={"kind": "generation"})
    said = Silence()
    heard: list[str] = []
    said.say = heard.append
    name = "icv:strength=50,site=block"
    kshot.adapt(task, Engine(tiny_backbone()), recipes=name, out=tmp_path / "run", progress=said)
    lines = [line for line in heard if "the model repeats itself on" in line]
    assert [line.split(" inputs")[0].split(" of ")[1] for line in lines] == ["2", "4", "6"]
