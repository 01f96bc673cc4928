"""Training along a stream: nothing from the future, resumption to the bit, the race of settings, and whole runs."""

import json
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from math import log, log2
from pathlib import Path

import numpy as np
import pytest

import kshot
import kshot.learners.trained
from conftest import labelled_rows, write_task
from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.lessons import DivergedError
from kshot.core.types import Example, Prediction, Query, Task
from kshot.engine.language_model import Engine
from kshot.engine.trained_model import TrainedEngine
from kshot.learners.build import make_learner
from kshot.learners.kept import Kept
from kshot.learners.learner import Learner, Setup
from kshot.learners.settings_race import SettingsRace
from kshot.learners.trained import TrainedLearner
from kshot.models.scripted import ScriptedModel
from kshot.models.tiny import tiny_backbone
from kshot.recipes.grammar import parse_recipes
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel
from test_chat import SHAPES, chat_engine, chat_tokenizer

STREAM = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(8)))
QUERIES = [Query(e, STREAM[:i]) for i, e in enumerate(STREAM)]
TASK = Task("words", "classification", STREAM, labels=("animal", "food", "tool"))


@pytest.fixture(scope="module")
def asker() -> TaskModel:
    return TaskModel.for_task(TASK, Engine(tiny_backbone()))


def run(text: str, asker: TaskModel, queries=QUERIES, *, seed: int = 0, keep: Kept | None = None):
    """Return a learner that has predicted the queries, and the predictions."""
    (recipe,) = parse_recipes(text, shots=3)
    learner = TrainedLearner(recipe, Setup(TASK, asker, seed, kept=keep))
    return learner, [replace(p, seconds=0, fit_seconds=0) for q in queries for p in learner.predict([q])]


def in_bytes(one: TrainedLearner) -> list[bytes]:
    return [t.numpy().tobytes() for t in one.model._weights.tensors().values()]


@pytest.fixture
def lessons(monkeypatch):
    """Every lesson that is learnt, as (ids of the demonstrations, id of the target, what is learnt)."""
    taught = []

    def spy(self, lesson, write=TaskModel.training_text):
        taught.append(([e.id for e in lesson.demonstrations], lesson.target.id, lesson.learnt))
        return write(self, lesson)

    monkeypatch.setattr(TaskModel, "training_text", spy)
    return taught


def ids(n: int) -> set[str]:
    return {e.id for e in STREAM[:n]}


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ",weights=full", ",target=current"])
def test_without_demonstrations_it_is_fine_tuning(asker, more):
    """The weights after all steps are the same to the byte, and so is every prediction."""
    settings = f"lr=1e-2,steps=2{more}"
    icl, fine = run(f"icl+ft:k=0,{settings}", asker), run(f"fine-tune:batch=1,{settings}", asker)
    assert in_bytes(icl[0]) == in_bytes(fine[0])
    assert icl[1] == fine[1]
    assert in_bytes(icl[0]) != in_bytes(run(f"icl+ft:k=1,{settings}", asker)[0])


@pytest.mark.parametrize("steps", [1, 2])
def test_nothing_of_the_future_is_shown_or_learnt(asker, lessons, steps):
    one, predictions = run(f"icl+ft:k=3,target=current,lr=1e-3,steps={steps}", asker)
    for i, p in enumerate(predictions):
        assert len(p.demonstrations) == len(set(p.demonstrations)) == min(3, i)
        assert set(p.demonstrations) <= ids(i)
    assert len(lessons) == steps * (len(STREAM) - 1)  # the last one is predicted, not yet learnt
    assert all((target, learnt) == (STREAM[j // steps].id, "answers") for j, (_, target, learnt) in enumerate(lessons))
    one.learn(STREAM)
    assert len(lessons) == len(one.log) == one.model._trainer.n_steps == steps * len(STREAM)
    done = [(row["n"], row["example"], row["step"]) for row in one.log]
    assert done == [(n, e.id, s) for n, e in enumerate(STREAM, 1) for s in range(steps)]


def test_fixed_demonstrations_are_the_first_of_the_stream(asker, lessons):
    _, predictions = run("icl+ft:k=2,fixed=true,target=current,lr=1e-3,steps=1", asker)
    assert [list(p.demonstrations) for p in predictions] == [[e.id for e in STREAM[: min(2, i)]] for i in range(8)]
    assert lessons == [([e.id for e in STREAM[: min(2, i)]], e.id, "answers") for i, e in enumerate(STREAM[:7])]


@pytest.mark.parametrize("name", ["icl+ft:k=2", "fine-tune:batch=3"])
@pytest.mark.parametrize("target", ["current", pytest.param("any-seen", marks=pytest.mark.slow)])
def test_what_a_step_learns(asker, lessons, name, target):
    """As many different examples seen in each step, the new one last, or anywhere or not at all where any will do."""
    run(f"{name},target={target},steps=3,lr=1e-3", asker)
    n, found = 0, set()
    for i in range(7):
        for _ in range(3):
            group = lessons[n : n + (1 if "icl" in name else min(3, i + 1))]
            n += len(group)
            learnt = [*group[-1][0], *(t for _, t, _ in group)]
            assert len(learnt) == len(set(learnt)) == min(3, i + 1)
            assert set(learnt) <= ids(i + 1)
            found.add((learnt[-1] == STREAM[i].id, STREAM[i].id in learnt))
    assert n == len(lessons)
    assert found == ({(True, True)} if target == "current" else {(True, True), (False, True), (False, False)})


def test_the_last_answer_alone_is_learnt_where_it_is_asked(asker, lessons):
    one, predictions = run("icl+ft:k=2,loss=last,reuse=true,over=all,lr=1e-2,steps=2", asker)
    assert {learnt for *_, learnt in lessons} == {"last"}
    for i, p in enumerate(predictions[:7]):
        first, second = one.log[2 * i], one.log[2 * i + 1]
        assert lessons[2 * i][0] == list(p.demonstrations)
        assert first["supervised"] == len(f" {STREAM[i].output}\n\n")
        right = p.log_probs[p.candidates.index(STREAM[i].output)]
        assert first["loss_nats"] * first["supervised"] == pytest.approx(-right, abs=1e-4)
        assert second["loss_nats"] != first["loss_nats"]


@pytest.mark.parametrize("name", ["icl+ft:k=2,lr=1e-2,steps=2", "fine-tune:lr=1e-3,steps=1,weights=full"])
def test_a_prediction_is_made_before_its_example_is_learnt(asker, name):
    one, predictions = run(name, asker)
    for i in (0, 1, 4, 7):
        other, _ = run(name, asker, [])
        other.learn(STREAM[:i])
        alone = TaskModel.for_task(TASK, other.model)
        prompt, _ = alone.prompt([e for d in predictions[i].demonstrations for e in STREAM if e.id == d], STREAM[i])
        assert tuple(alone.score([prompt], [TASK.labels])[0]) == predictions[i].log_probs
    assert other.model.fingerprint == one.model.fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "icl+ft:k=2,lr=1e-2,steps=2",
        pytest.param("fine-tune:lr=1e-3,steps=1,optimiser=adafactor", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seconds", [0.0, pytest.param(1e9, marks=pytest.mark.slow)])
def test_a_new_process_goes_on_to_the_bit(asker, name, seconds, tmp_path, monkeypatch):
    """Also where there are predictions but no state."""
    monkeypatch.setattr(kshot.learners.trained, "SECONDS_BETWEEN_STATES", seconds)
    whole, expected = run(name, asker)
    whole.learn(STREAM)
    n_learnt = []

    def spy(self, batch, learn=TrainedEngine.learn):
        n_learnt.append(len(batch.texts))
        return learn(self, batch)

    monkeypatch.setattr(TrainedEngine, "learn", spy)
    keep = Kept(SqliteStore(tmp_path / "store.sqlite"), tmp_path / "training", "key")
    assert run(name, asker, QUERIES[:5], keep=keep)[1] == expected[:5]
    assert len(list(tmp_path.glob("training/*.safetensors"))) == (seconds == 0)
    before = len(n_learnt)
    second, again = run(name, asker, keep=keep)
    second.learn(STREAM)
    assert (again, in_bytes(second), second.log) == (expected, in_bytes(whole), whole.log)
    assert len(n_learnt) == len(whole.log) + (before if seconds else 0)
    second.save_state()
    n_learnt.clear()
    third, again = run(name, asker, keep=keep)
    third.learn(STREAM)
    assert (again, in_bytes(third), third.log, n_learnt) == (expected, in_bytes(whole), whole.log, [])
    other = name.replace("lr=1e", "lr=3e")
    assert run(other, asker, keep=keep)[1] == run(other, asker)[1] != expected
    third.forget()
    assert not third._state_file.exists()
    keep.memory.close()


@pytest.mark.parametrize("weights", ["lora", "full"])
def test_without_a_learning_rate_it_is_prompting(asker, weights):
    (recipe,) = parse_recipes("random:fresh=true,k=3", shots=3)
    prompting = make_learner(recipe, Setup(TASK, asker, 0))
    expected = [replace(prompting.predict([q])[0], seconds=0, fit_seconds=0) for q in QUERIES]
    for lr, is_same in (("0", True), ("1e-3", False)):
        one, found = run(f"icl+ft:lr={lr},steps=1,k=3,weights={weights}", asker)
        assert sum(p.fit_tokens for p in found) == 3 * sum(row["tokens"] for row in one.log) > 0
        assert ([replace(p, fit_tokens=0) for p in found] == expected) is is_same


@pytest.mark.slow
def test_configurations_see_the_same_prompts_and_the_same_lessons(asker, lessons):
    found = []
    for settings in ("lr=1e-4,steps=1", "lr=1e-2,steps=1", "lr=1e-2,steps=3", "lr=1e-3,steps=3,weights=full"):
        one, predictions = run(f"icl+ft:k=2,{settings}", asker)
        first = [one for one, row in zip(lessons, one.log, strict=True) if row["step"] == 0]
        found.append(([p.demonstrations for p in predictions], first))
        lessons.clear()
    assert all(one == found[0] for one in found)
    run("icl+ft:k=2,lr=1e-4,steps=2", asker)
    assert lessons[::2] == found[0][1] != lessons[1::2]  # every step has its own draw
    lessons.clear()
    run("icl+ft:k=2,lr=1e-4,steps=1", asker, seed=1)
    assert lessons != found[0][1]


@pytest.mark.parametrize("name", ["icl+ft:target=current", "fine-tune:batch=1"])
def test_demonstrations_can_be_chosen(asker, lessons, name):
    one, predictions = run(f"{name},selector=bm25,k=2,lr=1e-3,steps=1", asker)
    (prompting,) = parse_recipes("bm25:k=2", shots=3)
    expected = make_learner(prompting, Setup(TASK, asker, 0)).predict(QUERIES)
    assert [p.demonstrations for p in predictions] == [p.demonstrations for p in expected]
    assert [len(shown) for shown, *_ in lessons] == [min(2, i) * name.startswith("icl") for i in range(7)]
    assert one.recipe.k == 2


class Stub(Learner):
    """A configuration with made-up probabilities of the right answer; where one is None it diverges."""

    follows = True

    def __init__(self, name: str, right: list[float | None]):
        (self.recipe,) = parse_recipes(f"fine-tune:lr={name},steps=1", shots=3)
        self.right, self.asked, self.forgotten, self.saved = right, [], 0, 0

    def fit(self, examples):
        raise NotImplementedError

    def predict(self, queries, *, progress=None):
        (query,) = queries
        self.asked.append(len(query.past))
        p = self.right[len(query.past)]
        if p is None:
            raise DivergedError(f"no numbers with {self.recipe.name}")
        probs = tuple(p if label == query.example.output else (1 - p) / 2 for label in TASK.labels)
        log_probs = tuple(map(log, probs))
        return [Prediction(query.example.id, TASK.labels, log_probs, probs, self.recipe.name, seconds=1.0)]

    def bits(self, n: int) -> float:
        return sum(-log2(p) for p in self.right[:n])

    def save_state(self):
        self.saved += 1

    def forget(self):
        self.forgotten += 1


LONG = [Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(25))]
LONG_QUERIES = [Query(e, LONG[:i]) for i, e in enumerate(LONG)]


def race_of(*learners: Learner) -> SettingsRace:
    """Return a race of these configurations."""
    recipe = replace(learners[0].recipe, name="raced", alternatives=tuple(one.recipe for one in learners))
    return SettingsRace(recipe, Setup(TASK, None, 0), learners)


def test_the_better_half_goes_on_and_the_best_so_far_predicts():
    rng = np.random.default_rng(0)
    stubs = [Stub(f"0.{i}", rng.uniform(0.05, 0.95, 25).tolist()) for i in range(1, 10)]
    stubs[4].right[2] = None
    race = race_of(*stubs)
    found = race.predict(LONG_QUERIES)
    alive, expected = list(stubs), []
    for i in range(25):
        assert [s for s in stubs if i in s.asked] == alive
        alive = [s for s in alive if s.right[i] is not None]
        expected.append(min(alive, key=lambda s: s.bits(i)))
        if i + 1 in (8, 16):
            best = sorted(alive, key=lambda s: s.bits(i + 1))[: (len(alive) + 1) // 2]
            alive = [s for s in alive if s in best]
    assert [p.answer for p in found] == [s.recipe.name for s in expected]
    assert len(set(expected)) > 2
    race.finish()
    best, other = sorted(alive, key=lambda s: s.bits(25))
    assert race.settled is best.recipe
    assert [p.answer for p in race.last(found)] == [best.recipe.name] * 25
    rows = race.configurations()
    assert sorted(row["n"] for row in rows) == [2, *[8] * 4, *[16] * 2, 25, 25]
    for s, row in zip(stubs, rows, strict=True):
        n = len(s.asked) - (s is stubs[4])
        assert (row["recipe"], row["n"], s.forgotten) == (s.recipe.name, n, s is not best)
        assert row["bits_per_example"] == pytest.approx(s.bits(n) / n)
        start = {stubs[4]: "diverged after 2 predictions: no numbers with", best: "chosen", other: "not chosen"}
        assert row["status"].startswith(
            start.get(s, f"dropped after {n} predictions: {s.bits(n) / n:.2f} bits, the best")
        )
    assert [p.seconds + p.fit_seconds for p in found] == [9.0] * 2 + [8.0] * 6 + [4.0] * 8 + [2.0] * 9


def test_where_all_diverge_the_race_says_so():
    with pytest.raises(DivergedError, match=r"every configuration diverged; the last: no numbers.*0\.1.*smaller lr"):
        race_of(Stub("0.1", [0.5, None]), Stub("0.2", [None])).predict(LONG_QUERIES)


def test_a_configuration_that_diverges_is_dropped(asker):
    (recipe,) = parse_recipes("icl+ft:lr=1e30/1e-3,steps=1", shots=3)
    race = make_learner(recipe, Setup(TASK, asker, 0))
    assert len(race.predict(QUERIES)) == 8
    assert race.settled.name == "icl+ft:lr=1e-3,steps=1"
    assert re.match(r"diverged after \d predictions: .*1e\+30 is too large", race.configurations()[0]["status"])


def test_a_race_that_is_interrupted_keeps_its_states():
    stubs = [Stub("0.1", [0.5] * 20), Stub("0.2", [0.6] * 20)]

    def stop(n, left=[5]):  # noqa: B006 - a counter
        left[0] -= n
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race_of(*stubs).predict(LONG_QUERIES, progress=stop)
    assert [(s.saved, s.forgotten, len(s.asked)) for s in stubs] == [(1, 0, 5)] * 2


SETTINGS = {"recipes": ["zero-shot", "fine-tune:lr=1e-3,steps=1", "icl+ft:k=2,lr=1e-3/1e-2,steps=1"], "shots": 4}
INPUTS = ["the cat and the axe", "rice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks") / "words", labelled_rows(9))


@pytest.fixture(scope="module")
def whole(folder, asker, tmp_path_factory):
    return kshot.adapt(Task.load(folder), asker.model, out=tmp_path_factory.mktemp("runs") / "whole", **SETTINGS)


@pytest.mark.slow
def test_a_finished_run_is_not_computed_again(folder, asker, whole, recorded):
    before = recorded(whole.folder)
    again = kshot.adapt(Task.load(folder), asker.model, out=whole.folder, **SETTINGS)
    assert (again.work.scored, again.chosen) == (0, whole.chosen)
    assert recorded(whole.folder) == before
    found = json.loads((whole.folder / "results.json").read_text())["configurations"]
    names = {name: [row["recipe"] for row in rows] for name, rows in found.items()}
    fine, icl = SETTINGS["recipes"][1:]
    assert names == {fine: [fine], icl: [f"icl+ft:lr={lr},steps=1,k=2" for lr in ("1e-3", "1e-2")]}


@pytest.mark.parametrize("recipe", ["icl+ft:k=2,lr=1e-3/1e-2,steps=1", "fine-tune:lr=1e-3,weights=full,steps=1"])
def test_the_tuned_model_is_saved_and_loaded_to_the_bit(folder, asker, recipe, tmp_path):
    best = kshot.adapt(folder, asker.model, recipes=recipe, out=tmp_path / "run").best
    expected = best.predict_proba(INPUTS)
    best.save(tmp_path / "copy")
    for place, model in ((tmp_path / "run", None), (tmp_path / "copy", asker.model)):
        loaded = kshot.load(place, model=model)
        assert loaded.predict_proba(INPUTS).tobytes() == expected.tobytes()
        assert loaded.model.fingerprint == best.model.fingerprint != asker.model.fingerprint
    with pytest.raises(UserError, match="adapted with other weights, .* than those of 'tiny'.*adapt again"):
        kshot.load(tmp_path / "copy", model=Engine(tiny_backbone(seed=1)))


@pytest.mark.slow
def test_killed_again_and_again(folder, asker, whole, tmp_path, recorded):
    """As in test_kill_resume.py, with a state written after every example."""
    script = str(Path(__file__).with_name("adapt_and_die.py"))
    code = f"""import runpy, sys, kshot.learners.trained
kshot.learners.trained.SECONDS_BETWEEN_STATES = 0
sys.argv = {[script, str(folder), json.dumps(SETTINGS)]}
runpy.run_path(sys.argv[0], run_name="__main__")"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    rng, out, latest, n_states = random.Random(0), tmp_path / "run", 20, []
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as forks:
        status = None
        while status != 0:
            print(json.dumps([str(out), rng.randint(1, latest)]), file=forks.stdin, flush=True)
            status = int(forks.stdout.readline())
            assert status in (0, signal.SIGKILL)
            latest += 360
            n_states.append(len(list(out.glob("training/*.safetensors"))))
    assert len(n_states) > 3
    assert max(n_states) >= 2
    assert recorded(out) == recorded(whole.folder)
    assert (
        kshot.load(out, model=asker.model).predict_proba(INPUTS).tolist() == whole.best.predict_proba(INPUTS).tolist()
    )


def test_alternatives_are_raced():
    (one,) = parse_recipes("icl+ft:lr=1e-3/1e-2,k=1/4,steps=1", shots=3)
    values = [(t.lr, t.k, t.steps) for t in (v.part("tuner") for v in one.variants)]
    assert values == [(lr, k, 1) for lr in (1e-3, 1e-2) for k in (1, 4)]
    assert (one.name, one.k) == ("icl+ft:lr=1e-3/1e-2,k=1/4,steps=1", 4)
    assert parse_recipes(one.variants[2].name, shots=9)[0].fingerprint == one.variants[2].fingerprint
    lora, full = parse_recipes("icl+ft,icl+ft:weights=full", shots=3)
    grid = [f"icl+ft:lr={lr},steps={n}" for lr in ("1e-4", "3e-4", "1e-3") for n in (1, 3)]
    assert [v.name for v in lora.variants] == grid
    assert [v.part("tuner").lr for v in full.variants] == [1e-5, 1e-5, 3e-5, 3e-5, 1e-4, 1e-4]
    (alone,) = parse_recipes("fine-tune:lr=1e-3,steps=1", shots=3)
    assert (alone.alternatives, alone.variants, alone.parts.keys(), alone.k) == ((), (alone,), {"tuner"}, 0)


BAD = {
    "icl+ft:stps=1": r"'icl\+ft' has no setting 'stps'. Did you mean 'steps'",
    "fine-tune:loss=all": "'fine-tune' has no setting 'loss'",
    "icl+ft:lr=-1": "lr must be a number, 0 or more; got -1",
    "icl+ft:lr=1e-3/x": r"icl\+ft:lr must be a number; got 'x'",
    "icl+ft:steps=0": "steps must be 1 or more; got 0",
    "fine-tune:batch=0": "batch must be 1 or more; got 0",
    "icl+ft:weights=half": "weights must be one of lora, full; got 'half'",
    "icl+ft:target=next": "target must be one of current, any-seen; got 'next'",
    "icl+ft:loss=first": "loss must be one of all, last; got 'first'",
    "icl+ft:k=-1": "k must be 0 or more; got -1",
    "fine-tune:k=-1": "k must be a whole number, 0 or more; got '-1'",
    "icl+ft:selector=bm52": "no selector 'bm52'. Did you mean 'bm25'",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_bad_recipes_say_what_must_hold(text, message):
    with pytest.raises(UserError, match=message):
        parse_recipes(text, shots=4)


IMPOSSIBLE = [
    ({"recipes": "icl+ft:align=gate"}, "aligns with another task; name it with --source, or leave align out"),
    ({"recipes": "zero-shot", "source": TASK}, "--source is for recipes that train weights; name one"),
    ({"recipes": "icl+ft:k=2/9"}, r"k must be in 1\.\.8, the size of the pool; got 9"),
    ({"recipes": "fine-tune", "model": ScriptedModel()}, "'fine-tune' needs a model .*; give another --model"),
]


@pytest.mark.parametrize(("how", "message"), IMPOSSIBLE)
def test_runs_that_cannot_be_say_what_must_hold(asker, how, message, tmp_path):
    how = {"model": asker.model, **how}
    with pytest.raises(UserError, match=message):
        kshot.adapt(TASK, out=tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


def test_answers_inside_of_one_message_cannot_be_learnt(tmp_path):
    model = chat_engine(chat_tokenizer(*SHAPES["qwen2.5"][:4]))
    for layout, loss in (("turns", "all"), ("block", "last")):
        recipe = f"icl+ft:lr=1e-3,steps=1,loss={loss}"
        assert kshot.adapt(TASK, model, recipes=recipe, layout=layout, out=tmp_path / layout).leaderboard[0]["n"] == 8
    with pytest.raises(UserError, match=r"each must be a part of its own.*'block' has them in one message.*loss=last"):
        kshot.adapt(TASK, model, recipes="icl+ft:lr=1e-3,steps=1", layout="block", out=tmp_path / "refused")


def test_an_interrupt_in_the_middle_of_an_example_leaves_no_state(asker, tmp_path, monkeypatch):
    """What is kept is a state between two examples; a run that goes on from it ends with the same bits."""
    name = "icl+ft:k=2,lr=1e-2,steps=3"
    monkeypatch.setattr(kshot.learners.trained, "SECONDS_BETWEEN_STATES", 0.0)
    whole, expected = run(name, asker)
    keep = Kept(SqliteStore(tmp_path / "store.sqlite"), tmp_path / "training", "key")
    calls, learn = [], TrainedEngine.learn

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 3 * 4 + 2:  # the second step of the fifth example
            raise KeyboardInterrupt
        return learn(self, batch)

    (recipe,) = parse_recipes(name, shots=3)
    monkeypatch.setattr(TrainedEngine, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        race_of(TrainedLearner(recipe, Setup(TASK, asker, 0, kept=keep))).predict(QUERIES)
    monkeypatch.setattr(TrainedEngine, "learn", learn)
    second, again = run(name, asker, keep=keep)
    assert (again, in_bytes(second)) == (expected, in_bytes(whole))


@pytest.mark.parametrize("keeps_state", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "icl+ft:k=2,lr=1e-3,steps=1,generator=rephrase(n=2)",
        "fine-tune:lr=1e-3,steps=1,teacher=preferences(probes=2,drafts=2)",
        "distil(random:k=2):lr=1e-3,steps=1",
    ],
)
def test_what_was_counted_before_an_interruption_is_not_counted_again(asker, tmp_path, monkeypatch, name, keeps_state):
    """Predictions and the ledger, by which a budget in tokens ends, are those of an undisturbed run."""
    (recipe,), says = parse_recipes(name, shots=2), TrainedLearner.says

    def predicted(place: str, n_known: int = 99):
        keep = Kept(SqliteStore(tmp_path / f"{place}.sqlite"), tmp_path / place, "key")
        model = replace(asker, model=asker.model.with_store(keep.memory), ledger=Ledger())
        learner = make_learner(recipe, Setup(TASK, model, 0, kept=keep))

        def stopped(self, queries, **how):
            if len(queries[0].past) == n_known:
                raise KeyboardInterrupt
            return says(self, queries, **how)

        with monkeypatch.context() as patch:
            patch.setattr(TrainedLearner, "says", stopped)
            if not keeps_state:
                patch.setattr(TrainedLearner, "save_state", lambda self: None)
            found = learner.predict(QUERIES[:7])
        return [replace(p, seconds=0, fit_seconds=0) for p in found], model.ledger.cost.tokens

    with pytest.raises(KeyboardInterrupt):
        predicted("stopped", 5)
    assert predicted("stopped") == predicted("whole")
