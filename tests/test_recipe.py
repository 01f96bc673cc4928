"""Recipes as text, and what every learner must keep: nothing from the future, the same seed the same result."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.fields import setting_names
from kshot.core.models import Capability
from kshot.core.schedule import refit_point
from kshot.core.types import Example, Query, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.measures.probabilities import UNIFORM_SHARE
from kshot.methods.classifiers import CLASSIFIERS
from kshot.methods.selectors import SELECTORS
from kshot.methods.steerers import STEERERS
from kshot.methods.tuners import TUNERS
from kshot.models.scripted import ScriptedModel
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipes
from kshot.recipes.names import SLOTS, known_recipes
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

NOUNS = {"sport": ["goal", "match", "team", "cup"], "tech": ["chip", "phone", "code", "web"], "food": ["bread", "soup"]}


def examples(n: int, *, seed: int = 0) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label = str(rng.choice(list(NOUNS)))
        rows.append(Example(f"the {rng.choice(NOUNS[label])} number {i}", label, f"e{i}"))
    return tuple(rows)


TASK = Task("nouns", "classification", examples(24), labels=tuple(NOUNS))
# Settings with which methods are quick, wherever they have them
QUICK = {
    "epochs": "1",
    "snapshots": "1",
    "prompts": "2",
    "shots": "2",
    "evaluations": "12",
    "kept": "4",
    "split": "true",
}
QUICK_BY_SLOT = {"tuner": {"lr": "1e-2", "steps": "1", "batch": "2"}, "steerer": {"steps": "4"}}
QUICK_BY_NAME = {"icl+ft": {"lr": "1e-3/1e-2"}}  # a race of settings inside the recipe
TINY = kshot.load_model("tiny")
# "decisions" asks a server (test_decision_service), "forecast" is for series (test_series), "supportive" has a corpus
HERE = [name for name in known_recipes() if name not in ("decisions", "forecast", "supportive")]


@cache
def quick(name: str) -> Recipe:
    """Return a recipe with settings with which it is quick."""
    slot, settings = known_recipes().get(name), []
    if slot:
        chosen = QUICK | QUICK_BY_SLOT.get(slot, {}) | QUICK_BY_NAME.get(name, {})
        known = setting_names(SLOTS[slot].find(name))
        settings = [f"{k}={v}" for k, v in chosen.items() if k in known]
    needs_members = slot == "combiner" and not SLOTS[slot].find(name).usual
    whole = f"{name}(majority, zero-shot, random)" if needs_members else name
    (recipe,) = parse_recipes(f"{whole}:{','.join(settings)}" if settings else whole, shots=4)
    return recipe


def takes_gradients(recipe: Recipe) -> bool:
    return Capability.GRADIENTS in recipe.selector_needs


def is_dear(recipe: Recipe) -> bool:
    """Return whether a recipe learns at each example, steers or takes gradients: then fewer are predicted."""
    return recipe.changes_model or takes_gradients(recipe) or not recipe.asks_model


def streamed(name: str) -> tuple[Example, ...]:
    """Return the examples that a recipe predicts: some more than its third or fourth doubling."""
    return TASK.train[:10] if is_dear(quick(name)) else TASK.train


def predict(name: str, stream: tuple[Example, ...], *, seed: int = 0):
    recipe = quick(name)
    model = TINY if recipe.changes_model else ScriptedModel()
    asked = TaskModel.for_task(TASK, TINY) if takes_gradients(recipe) else None
    setup = Setup(TASK, TaskModel.for_task(TASK, model), seed, selector_model=asked)
    return make_learner(recipe, setup).predict([Query(e, stream[:i]) for i, e in enumerate(stream)])


@cache
def predicted(name: str):
    """The whole stream's predictions, computed once for all tests that look at them."""
    return predict(name, streamed(name))


def untimed(predictions):
    return [replace(p, seconds=0, fit_seconds=0) for p in predictions]


def but_slow(*slow: str) -> list:
    """All recipes, some of them only among the slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in HERE]


# icl+ft trains too, gradient-matching takes gradients, icv steers
OTHERS_DO_AS_WELL = {"fine-tune", "less", "random-direction", "soft-injection", "function-vector", "embedding-lr"}
OTHERS_DO_AS_WELL |= {"llm-r"}


@pytest.mark.parametrize("name", but_slow(*OTHERS_DO_AS_WELL))
def test_predictions_rest_on_the_past_alone(name):
    """Neither the query's own label nor anything after it changes a prediction."""
    recipe = quick(name)
    stream, turn = streamed(name), {"sport": "tech", "tech": "food", "food": "sport"}
    before = untimed(predicted(name))
    later = 2 if is_dear(recipe) else 4
    for cut in (1, 8) if is_dear(recipe) else (0, 1, 5, 16):
        future = [replace(e, output=turn[e.output], input=e.input if e is stream[cut] else "x" + e.input)
                  for e in stream[cut : cut + later]]  # fmt: skip
        after = untimed(predict(name, (*stream[:cut], *future)))[: cut + 1]
        if "steerer" in recipe.parts:  # other queries make other packs, which round differently
            assert [p.log_probs for p in after] == [pytest.approx(p.log_probs, abs=1e-4) for p in before[: cut + 1]]
        else:
            assert after == before[: cut + 1]


@pytest.mark.parametrize("name", HERE)
def test_demonstrations_are_from_the_past_and_never_repeat(name):
    ids, recipe = [e.id for e in TASK.train], quick(name)
    chooses_k = recipe.chooses_alone and recipe.per_query and not recipe.part("selector").sees_all
    for i, prediction in enumerate(predicted(name)):
        assert set(prediction.demonstrations) <= set(ids[:i])
        assert len(set(prediction.demonstrations)) == len(prediction.demonstrations)
        if chooses_k:
            assert len(prediction.demonstrations) == min(4, i)


@pytest.mark.parametrize("name", HERE)
def test_probabilities_are_mixed_and_sum_to_one(name):
    for prediction in predicted(name):
        assert sum(prediction.probs) == pytest.approx(1)
        assert min(prediction.probs) >= UNIFORM_SHARE / 3 - 1e-12
        assert prediction.answer == prediction.candidates[int(np.argmax(prediction.probs))]


# Of the others that is seen above: what comes before a changed future is predicted anew, and is the same
ANEW = [name for name in HERE if "steerer" in quick(name).parts or name in OTHERS_DO_AS_WELL]


@pytest.mark.parametrize("name", but_slow(*(name for name in HERE if name not in ANEW)))
def test_the_same_seed_gives_the_same_predictions(name):
    assert untimed(predict(name, streamed(name))) == untimed(predicted(name))


def test_another_seed_draws_other_demonstrations():
    assert [p.demonstrations for p in predict("random", TASK.train)] != [
        p.demonstrations for p in predict("random", TASK.train, seed=1)
    ]


def test_task_level_choices_are_made_anew_when_the_past_has_doubled():
    shown = [p.demonstrations for p in predict("random", TASK.train)]
    assert [refit_point(n) for n in (0, 1, 2, 3, 4, 7, 8, 15, 16)] == [0, 1, 2, 2, 4, 4, 8, 8, 16]
    changes = [i for i in range(1, 24) if shown[i] != shown[i - 1]]
    assert changes == [1, 2, 4, 8, 16]


def test_recipes_are_read_with_their_settings():
    bm25, random, zero = parse_recipes("bm25,random:k=8,balanced=true, zero-shot", shots=4)
    assert (bm25.k, random.k, zero.k) == (4, 8, 0)
    assert random.part("selector").balanced
    assert not zero.parts
    cheap = [name for room in (SELECTORS, STEERERS, TUNERS) for name in room if name not in room.on_request]
    assert {"random", "bm25", "icv", "fine-tune"} <= set(cheap)
    cheap.insert(cheap.index("random") + 1, "random:contexts=8")
    classifiers = [name for name in CLASSIFIERS if name not in CLASSIFIERS.on_request]
    assert [r.name for r in parse_recipes("all", shots=4)] == [*classifiers, "zero-shot", *cheap, "mix"]
    both = [r.name for r in parse_recipes("best-of-n,all,random:k=2", shots=4)]
    assert both == ["best-of-n", *classifiers, "zero-shot", *cheap, "mix", "random:k=2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnadom", "no recipe 'rnadom'. Did you mean 'random'"),
        ("random:balnced=true", "no setting 'balnced'. Did you mean 'balanced'"),
        ("random:balanced=7", "random:balanced must be true or false; got '7'"),
        ("random:k=x", "k must be a whole number, 1 or more; got 'x'"),
        ("random:k=0", "k must be a whole number, 1 or more; got '0'"),
        ("zero-shot:k=4", "'zero-shot' has no setting 'k'. Known: calibration, composer, loop"),
        ("majority:k=4", "'majority' has no setting 'k'"),
        ("random:k=2,k=3", "each setting must be there once; got 'k=2,k=3'"),
        ("random,random", "each recipe once; got 'random' 2 times"),
        ("nowhere.py:Mine", "nowhere.py does not exist"),
    ],
)
def test_bad_recipes_say_what_must_hold(text, message):
    with pytest.raises(UserError, match=message):
        parse_recipes(text, shots=4)


def test_names_of_our_own_are_read_without_asking_all_packages(monkeypatch):
    """That reads a file of each installed package."""
    asked = []
    monkeypatch.setattr("kshot.core.plugins.entry_points", lambda group: asked.append(group) or ())
    parse_recipes(",".join(known_recipes()), shots=2)
    assert asked == []
    with pytest.raises(UserError, match="there is no recipe 'rondom'"):
        parse_recipes("rondom", shots=2)
    assert asked == [room.group for room in SLOTS.values()]


def test_a_selector_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "import kshot\n"
        "@dataclass(frozen=True)\n"
        "class Last(kshot.Selector):\n"
        "    back: int = 1\n"
        "    per_query = True\n"
        "    _n: int = 0\n"
        "    def fit(self, pool, *, model, rng):\n"
        "        return Last(self.back, len(pool))\n"
        "    def select(self, question, k, *, rng):\n"
        "        assert not hasattr(question, 'output')\n"
        "        return list(range(self._n))[-self.back:]\n"
    )
    shown = [p.demonstrations for p in predict(f"{file}:Last:back=2", TASK.train)]
    assert shown[5] == ("e3", "e4")
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match="must define 'Last'"):
        parse_recipes(f"{file}:Last", shots=4)


def test_a_model_without_scores_is_refused_before_any_work():
    class Mute(ScriptedModel):
        capabilities = frozenset()

    (recipe,) = parse_recipes("bm25", shots=4)
    assert recipe.asks_model
    with pytest.raises(UserError, match="'bm25' needs a model that can score; give another --model"):
        make_learner(recipe, Setup(TASK, TaskModel.for_task(TASK, Mute()), 0))


def test_the_stream_is_shuffled_by_seed_deduplicated_and_limited():
    twin = Example("the  goal number 0", "tech", "twin")
    first = replace(twin, input="the goal number 0", id="first")
    task = replace(TASK, train=(first, *TASK.train[1:], twin))
    stream = make_stream(task, limit=10, seed=0)
    assert stream.removed == ("twin",)
    assert {e.id for e in stream.examples} == {e.id for e in task.train} - {"twin"}
    assert len(stream.positions) == 10
    assert stream.asked == tuple(stream.examples[at] for at in stream.positions)
    assert make_stream(task, limit=10, seed=0) == stream
    assert make_stream(task, limit=10, seed=1).examples != stream.examples
    assert [len(q.past) for q in stream.queries()] == list(stream.positions)
    assert all(q.past == stream.examples[:at] for q, at in zip(stream.queries(), stream.positions, strict=True))
    assert stream.positions[-1] == len(stream.examples) - 1
    whole = make_stream(task, limit=300, seed=0)
    assert whole.positions == tuple(range(len(whole.examples)))


def test_relevant_demonstrations_help_the_scripted_reader():
    """The double reads the demonstration that shares most words: BM25 must beat asking without demonstrations."""
    task = replace(TASK, train=examples(60, seed=3))
    right = {}
    for name in ("zero-shot", "bm25"):
        answers = predict(name, task.train)
        right[name] = np.mean([p.answer == e.output for p, e in zip(answers, task.train, strict=True)])
    assert right["bm25"] > 0.8 > 0.6 > right["zero-shot"]
