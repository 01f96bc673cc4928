"""Ordered sets that are searched: never more are tried than allowed, order counts, and the bandit beats chance."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kshot
from encoders import make_tiny_encoder
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Query, Question, Task
from kshot.encoders.encoder import load_encoder
from kshot.learners.demonstrations import chosen, fitted, worded
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.contracts import Composer
from kshot.methods.selectors import ease as ease_file
from kshot.methods.selectors.best_of_n import BestOfN
from kshot.methods.selectors.ease import Ease
from kshot.methods.selectors.evolution import Evolution
from kshot.methods.selectors.reward_net import RewardNet
from kshot.methods.selectors.transport import transport_cost
from kshot.models.scripted import ScriptedModel
from kshot.race.record import PromptBook
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

K = 5
PLACES = np.array([0.4, 0.6, 0.8, 1.0, 1.4])  # what stands next to the question counts most
POOL = tuple(Example(f"item {i}", "ab"[i % 2], f"e{i}") for i in range(60))


class Planted:
    """An encoder and a model of one seed: what answers cost after a list is a function of its vector, with noise."""

    task, composer = Task("planted", "classification", ()), UsualWording()

    def __init__(self, seed: int, dim: int = 16, *, in_bits: bool = True):
        rng = np.random.default_rng(1000 + seed)
        rows = rng.normal(size=(len(POOL), dim))
        self.items = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.direction, self.seed, self.dim, self._in_bits = rng.normal(size=dim), seed, dim, in_bits
        self.asked: list[tuple[str, ...]] = []
        self.queries: set[str] = set()
        self.notes: list[Any] = []
        self.said: list[str] = []
        self.progress = Telling(self.said)

    def n_cut(self, texts: Sequence[str]) -> int:
        return 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([self.vector([int(i) for i in re.findall(r"item (\d+)", text)]) for text in texts])
        return rows.astype(np.float32).reshape(len(texts), self.dim)

    def vector(self, items: Sequence[int]) -> FloatArray:
        total = (PLACES[-len(items) :, None] * self.items[list(items)]).sum(axis=0)
        return total / np.linalg.norm(total)

    def truth(self, items: Sequence[int]) -> float:
        """How often answers are right after the list."""
        return float(1 / (1 + np.exp(2 - self.vector(items) @ self.direction)))

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        pairs = [(tuple(e.id for e in some), query.id) for some, query in zip(shown, queries, strict=True)]
        self.asked += dict.fromkeys(ids for ids, _ in pairs)
        self.queries |= {query for _, query in pairs}
        truths = {ids: self.truth([int(i[1:]) for i in ids]) for ids in dict.fromkeys(ids for ids, _ in pairs)}
        return np.array([self._bits(truths[ids], generator(self.seed, query, *ids)) for ids, query in pairs])

    def _bits(self, truth: float, rng: np.random.Generator) -> float:
        """Some questions are easier than others; or else an answer is right or wrong, and costs 0 or 1."""
        if not self._in_bits:
            return float(rng.random() > truth)
        return float(np.log2(1 + np.exp(-np.log(truth / (1 - truth)) - rng.normal())))

    def note(self, values: Any) -> None:
        self.notes.append(values)


class Telling(Silence):
    """Keeps what is said."""

    def __init__(self, said: list[str]):
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


def found(selector: Any, planted: Any, seed: int = 0, k: int = K, pool: Sequence[Example] = POOL) -> list[int]:
    fit = selector.fit(pool, model=planted, rng=np.random.default_rng(seed))
    return fit.select(None, k, rng=np.random.default_rng(seed))


def quick(**settings: Any) -> Ease:
    return Ease(**{"evaluations": 16, "starts": 8, "candidates": 8, "kept": 4, "steps": 5, **settings})


@pytest.fixture
def planted(monkeypatch) -> Planted:
    one = Planted(0)
    monkeypatch.setattr(ease_file, "load_encoder", lambda name: one)
    return one


def gains(monkeypatch, ease: Ease, best: BestOfN, **how: Any) -> FloatArray:
    """Return by how much the bandit's list is truly better than the best of random ones, for eight seeds."""
    found_gains = []
    for seed in range(8):
        planted = Planted(seed, **how)
        monkeypatch.setattr(ease_file, "load_encoder", lambda name, planted=planted: planted)
        bandit = planted.truth(found(ease, planted, seed))
        assert len(set(planted.asked)) <= ease.evaluations
        found_gains.append(bandit - planted.truth(found(best, planted, seed)))
    return np.array(found_gains)


@pytest.mark.slow
def test_the_bandit_is_better_than_the_best_of_as_many_random_lists(monkeypatch):
    """The planted reward in bits, 40 evaluations, 50 candidates a step without transport, 40 steps of training."""
    better = gains(monkeypatch, Ease(candidates=50, steps=40), BestOfN(n=40))
    assert better.mean() > 0.05
    assert (better > 0).sum() >= 6, better


@pytest.mark.slow
def test_the_bandit_is_better_where_answers_are_right_or_wrong(monkeypatch):
    """As it was checked first: 100 evaluations of 20 answers each, 400 candidates a step, 150 steps of training."""
    how: Any = {"evaluations": 100, "starts": 25, "queries": 20, "candidates": 400, "kept": 400, "steps": 150}
    better = gains(monkeypatch, Ease(**how), BestOfN(n=100, queries=20), in_bits=False)
    assert better.mean() > 0
    assert (better > 0).sum() >= 6, better


@pytest.mark.parametrize("selector", [quick(), Evolution(evaluations=16), quick(starts=16), quick(evaluations=9)])
def test_no_more_lists_are_tried_than_allowed_none_twice_and_none_shows_what_is_asked(selector, planted):
    chosen_ids = {POOL[i].id for i in found(selector, planted)}
    assert len(planted.asked) == len(set(planted.asked)) == selector.evaluations
    assert len(planted.queries) == 16
    assert not planted.queries & {i for ids in planted.asked for i in ids}
    assert not planted.queries & chosen_ids
    (note,) = planted.notes
    assert note["tried"] == selector.evaluations
    assert min(note["bits"]) > 0


@pytest.mark.parametrize("selector", [quick(), Evolution(evaluations=16)])
def test_the_best_list_that_was_tried_is_shown_and_several_are_the_best_ones(selector, planted):
    fit = selector.fit(POOL, model=planted, rng=np.random.default_rng(0))
    first = fit.select(None, K, rng=np.random.default_rng(3))
    asked = list(planted.asked)
    (hands,) = fit.contexts([None], K, 4, rngs=[[np.random.default_rng(3 + i) for i in range(4)]])
    assert planted.asked == asked  # the search is done once
    by_bits = sorted(zip(planted.notes[0]["bits"], asked, strict=True))
    assert [tuple(POOL[i].id for i in hand) for hand in hands] == [ids for _, ids in by_bits[:4]]
    assert hands[0] == first
    assert fit.wording(UsualWording(), K, rng=np.random.default_rng(3)) == UsualWording()
    assert planted.asked == asked
    assert fit.most_contexts(60, K) == 16


@pytest.mark.parametrize("selector", [quick(), Evolution(evaluations=16)])
def test_few_lists_are_all_tried(selector, planted):
    pool = POOL[:5]  # two are asked, three of them can be shown in six orders
    found(selector, planted, k=2, pool=pool)
    assert len(planted.asked) == 6
    planted.asked.clear()
    assert sorted(found(selector, planted, k=5, pool=pool)) == list(range(5))
    assert found(selector, planted, k=9, pool=pool) != list(range(5))
    assert planted.asked == []  # nothing can be held out: a random draw


def test_a_rehearsal_tries_as_many_lists_and_learns_nothing(planted, monkeypatch):
    monkeypatch.setattr(ease_file, "load_encoder", None)
    found(quick().rehearsing(), planted)
    assert len(set(planted.asked)) == 16


def test_a_list_that_leaves_nothing_to_save_ends_the_search(planted, monkeypatch):
    monkeypatch.setattr(planted, "_bits", lambda truth, rng: 0.0)
    found(quick(), planted)
    assert len(planted.asked) == 8


def test_an_encoder_that_ignores_order_is_said(planted, monkeypatch):
    found(quick(), planted)
    assert planted.notes[-1]["order"] == "seen"
    assert planted.said == []
    monkeypatch.setattr(planted, "vector", lambda items: planted.items[sorted(items)].mean(axis=0))
    found(quick(), planted)
    assert planted.notes[-1]["order"] == "ignored"
    assert planted.said == [
        "ease: the encoder 'minilm' gives two orders of the same demonstrations the same vector, so orders are found "
        "by chance alone; name another encoder"
    ]


def test_the_packaged_encoder_sees_order():
    texts = ["\n\n".join(f"{e.text}\n{e.output}" for e in some) for some in (POOL[:5], POOL[4::-1])]
    one, other = load_encoder().embed(texts)
    assert np.abs(one - other).max() > 100 * ease_file.SAME


@pytest.mark.parametrize(("words", "n_blocks"), [(0, 1), (9, 2), (14, 4)])
def test_long_lists_are_embedded_in_pieces(words, n_blocks, tmp_path):
    encoder = make_tiny_encoder(tmp_path, ("item", "and", "so", "on", *map(str, range(60))))  # reads 64 words
    task = Task("t", "classification", POOL, labels=("a", "b"))
    pool = [replace(e, input=e.input + " and so on" * words) for e in POOL[:10]]
    notes: list[Any] = []
    model = replace(TaskModel.for_task(task, ScriptedModel()), notes=notes.append)
    found(quick(evaluations=4, starts=3, encoder=encoder), model, k=4, pool=pool)
    assert (notes[0]["order"], notes[0]["blocks"]) == ("seen", n_blocks)


def test_the_network_learns_and_is_less_unsure_of_what_it_has_seen():
    rng = np.random.default_rng(0)
    arms = rng.normal(size=(30, 6)).astype(np.float32)
    rewards = (arms[:, 0] - arms[:, 1]).astype(np.float32)
    net = RewardNet(6, rng)
    before = net.bounds(arms) - _values(net, arms)
    net.tried(arms[0])
    after = net.bounds(arms) - _values(net, arms)
    assert 0 < after[0] < before[0]
    net.fit(arms, rewards, steps=400)
    assert np.abs(_values(net, arms) - rewards).mean() < 0.15
    weights = net._weights.copy()
    net.fit(arms, rewards, steps=400)
    assert (net._weights == weights).all()  # it begins at the same weights


def test_the_bound_is_the_formula():
    """Against numerical gradients of every weight."""
    net = RewardNet(3, np.random.default_rng(1))
    arm = np.array([[0.3, -0.2, 0.9]], dtype=np.float32)
    net.tried(arm[0])
    weights, total = net._weights.copy(), 0.0
    for i in np.random.default_rng(0).permutation(len(weights))[:300].tolist():
        sides = []
        for step in (1e-2, -1e-2):
            net._weights = weights.copy()
            net._weights[i] += step
            sides.append(float(_values(net, arm)[0]))
        gradient = (sides[0] - sides[1]) / 2e-2
        seen = float(net._seen[i])
        assert seen == pytest.approx(0.1 + gradient**2, abs=2e-3)
        total += 0.1 * 0.01 * gradient**2 / seen
    net._weights = weights
    exact = 0.1 * 0.01 * ((net._seen - 0.1) / net._seen).sum()
    assert net.bounds(arm)[0] - _values(net, arm)[0] == pytest.approx(np.sqrt(exact), rel=1e-4)
    assert total <= exact


def _values(net: RewardNet, arms: np.ndarray) -> np.ndarray:
    return net._gradients(arms)[0][-1][:, 0]


@pytest.mark.parametrize(("k", "m"), [(2, 6), (3, 5), (4, 4), (5, 3), (13, 20)])
def test_transport_is_the_least_of_all_plans(k, m, monkeypatch):
    from kshot.methods.selectors import transport

    costs = np.random.default_rng(k).random((k, m))
    assigned = transport_cost(costs)
    monkeypatch.setattr(transport, "MOST", 0)  # by the linear program
    assert assigned == pytest.approx(transport_cost(costs), abs=1e-9)
    assert assigned <= costs.mean()


@dataclass(frozen=True)
class Asking(Composer):
    """Says one of some instructions."""

    instruction: str = "Guess."

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        script = UsualWording().compose(task, shown, question)
        return replace(script, pieces=(Piece("instruction", self.instruction), *script.pieces))

    @property
    def alternatives(self) -> tuple[Composer, ...]:
        return (self, Asking("Say the way."), Asking("Say nothing."))


ROWS = tuple(Example(f"the {i} way", ("left", "right")[i % 2], f"r{i}") for i in range(30))
WAYS = Task("ways", "classification", ROWS[:24], ROWS[24:], labels=("left", "right"))


class Obedient(ScriptedModel):
    """Answers well if it is told the right thing."""

    def _believed(self, prompt: Any) -> str | None:
        number = int(re.findall(r"\d+", prompt.segments[-1].text)[-1])
        return ("left", "right")[number % 2] if "Say the way." in prompt.text else "left"


@pytest.mark.parametrize(
    "name", ["ease:starts=4,evaluations=8,steps=5,kept=4", "evolution:population=6,evaluations=12"]
)
def test_lists_are_searched_together_with_the_composers_alternatives(name):
    recipe = parse_recipe(name, shots=3).having(composer=Asking())
    notes: list[Any] = []
    model = replace(TaskModel.for_task(WAYS, Obedient()), notes=notes.append, composer=Asking())
    selector = fitted(recipe.part("selector"), WAYS.train, model=model, seed=0)
    chosen(selector, WAYS.train, 3, [None], seed=0, n_contexts=3)
    said = worded(model, selector, WAYS.train, 3, seed=0)
    assert said.composer == Asking("Say the way.")
    assert notes[0]["wording"] == 1
    assert len(notes) == 1
    learner = PromptLearner(recipe, Setup(WAYS, TaskModel.for_task(WAYS, Obedient()), 0))
    predictions = learner.predict([Query(e, ROWS[:24]) for e in ROWS[24:]])
    assert [p.answer for p in predictions] == [e.output for e in ROWS[24:]]
    assert learner.fit(ROWS[:24]).recipe.part("composer") == Asking("Say the way.")


def test_the_prompts_that_are_told_have_the_wording_that_was_chosen():
    recipe = parse_recipe("evolution:population=6,evaluations=12", shots=3).having(composer=Asking())
    stream, model = make_stream(WAYS, limit=24, seed=0), TaskModel.for_task(WAYS, Obedient())
    asked, past = stream.examples[20], stream.examples[:20]
    (said,) = PromptLearner(recipe, Setup(WAYS, model, 0)).predict([Query(asked, past)])
    shown = {"contexts": (), "demonstrations": said.demonstrations}
    book = PromptBook(model, stream, 0)
    book.add(recipe, [{"setting": "", "position": 20, "example_id": asked.id, **shown}])
    assert ("instruction", "Say the way.") in {(role, text.strip()) for role, text in book.segments}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ease:evaluations=1", "ease:evaluations must be 2 or more; got 1."),
        ("ease:queries=0", "ease:queries must be 1 or more; got 0."),
    ],
)
def test_settings_that_cannot_be_are_said(name, said):
    with pytest.raises(UserError, match=re.escape(said)):
        parse_recipe(name, shots=2)


def notes_of(run: Path) -> list[Any]:
    (found,) = json.loads((run / "results.json").read_text())["selections"].values()
    return found


def test_it_is_raced_saved_and_read_again(words_task, tmp_path, run_cli):
    done = run_cli("adapt", words_task, "--model", "tiny", "--shots", 2, "--limit", 12, "--out", tmp_path / "run",
                   "--recipes", "ease:evaluations=12,steps=5,kept=4,queries=4,contexts=2", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert notes_of(tmp_path / "run")[-1]["tried"] == 12
    model = kshot.load(tmp_path / "run")
    assert len(model.fitted.shown) == 2
    assert model.predict(["the cat"]) == kshot.load(tmp_path / "run").predict(["the cat"])
