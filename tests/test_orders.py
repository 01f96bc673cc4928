from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.ledger import Ledger
from kshot.core.models import LanguageModel
from kshot.core.progress import Progress, Silence
from kshot.core.script import UsualWording
from kshot.core.types import Example, FloatArray, Query, Question, Task
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.methods import orders as order
from kshot.methods.orders import AS_SELECTED, ORDERS, ZeroShotBits, check_order
from kshot.methods.selectors import SELECTORS
from kshot.recipes.grammar import parse_recipe
from kshot.retrieval.lexical import LexicalIndex
from kshot.taskmodel.taskmodel import TaskModel

WORDS = ("who", "painted", "the", "moon", "far", "")
QUERY = Question("who painted the moon", "q")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@dataclass
class StubModel:
    """Says bits that depend on the id alone, some of them equal, and keeps what it was asked."""

    model: LanguageModel | None = None
    composer: UsualWording = UsualWording()
    asked: list[str] = field(default_factory=list)
    notes: Any = None
    told: Any = None
    ledger: Ledger = field(default_factory=Ledger)
    progress: Progress = field(default_factory=Silence)

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        assert not any(shown)
        assert len(shown) == len(queries)
        self.asked += [e.id for e in queries]
        return np.array([self.bits(e.id) for e in queries])

    @staticmethod
    def bits(name: str) -> float:
        return crc32(name.encode()) % 16 / 4


def ordered(
    name: str, shown: Sequence[Example], query: Question | None, *, rng: np.random.Generator
) -> tuple[Example, ...]:
    return order.ordered(name, shown, query, rng=rng, bits=ZeroShotBits(StubModel()))


def demonstrations(outputs: str) -> list[Example]:
    return [Example(f"{i}", output, id=f"{i}") for i, output in enumerate(outputs)]


def outputs(shown: tuple[Example, ...]) -> str:
    return "".join(e.output for e in shown)


def least_distance(text: str) -> int:
    """Return how near to each other the two nearest equal letters stand; the length if all differ."""
    last: dict[str, int] = {}
    least = len(text)
    for i, letter in enumerate(text):
        least = min(least, i - last.get(letter, -len(text)))
        last[letter] = i
    return least


examples = st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4), st.sampled_from("abc")), max_size=9).map(
    lambda rows: [Example(" ".join(text), output, id=str(i)) for i, (text, output) in enumerate(rows)]
)


@pytest.mark.parametrize("name", ORDERS)
@given(shown=examples, query=st.sampled_from([QUERY, None]), seed=st.integers(0, 9))
def test_contract_an_order_only_orders(name, shown, query, seed):
    before = list(shown)
    got = ordered(name, shown, query, rng=rng(seed))
    assert type(got) is tuple
    assert Counter(got) == Counter(shown)
    assert shown == before
    assert ordered(name, shown, query, rng=rng(seed)) == got
    assert name == "shuffled" or ordered(name, shown, query, rng=rng(seed + 1)) == got


def test_the_names_are_these():
    assert list(ORDERS) == ["as-selected", "nearest-last", "label-interleaved", "shuffled", "most-confident-last"]
    assert AS_SELECTED == "as-selected"


@given(examples)
def test_as_selected_changes_nothing(shown):
    assert ordered("as-selected", shown, QUERY, rng=rng()) == tuple(shown)


@given(examples)
def test_nearest_last_goes_by_bm25_and_keeps_ties(shown):
    scores = dict(zip(shown, LexicalIndex([e.text for e in shown]).scores(QUERY.text), strict=True))
    assert ordered("nearest-last", shown, QUERY, rng=rng()) == tuple(sorted(shown, key=lambda e: scores[e]))
    assert ordered("nearest-last", shown, None, rng=rng()) == tuple(shown)


def test_nearest_last_by_eye():
    texts = ("who painted the moon", "how far", "who painted", "where")
    shown = [Example(t, "", id=str(i)) for i, t in enumerate(texts)]
    assert [e.id for e in ordered("nearest-last", shown, QUERY, rng=rng())] == ["1", "3", "2", "0"]


@given(st.text("abcd", max_size=6))
def test_label_interleaved_keeps_equal_outputs_as_far_apart_as_possible(text):
    got = ordered("label-interleaved", demonstrations(text), None, rng=rng())
    assert least_distance(outputs(got)) == max(least_distance("".join(p)) for p in set(permutations(text)) or {()})
    for output in set(text):  # each in its own order
        ids = [int(e.id) for e in got if e.output == output]
        assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ("", ""),
        ("aaa", "aaa"),
        ("aabbcc", "abcabc"),
        ("abcabc", "abcabc"),
        ("aaabc", "abaca"),
        ("aaaaaab", "aaaaaba"),  # the surplus stands far from the query
        ("baaaaaa", "aaaaaba"),
        ("aaaabb", "aababa"),
        ("ab", "ab"),
        ("ba", "ba"),
    ],
)
def test_label_interleaved_by_eye(selected, expected):
    assert outputs(ordered("label-interleaved", demonstrations(selected), None, rng=rng())) == expected


def test_shuffled_reaches_every_order():
    shown = demonstrations("abc")
    assert len({ordered("shuffled", shown, None, rng=rng(seed)) for seed in range(100)}) == 6


def test_an_unknown_order_is_the_users_error():
    for name in ORDERS:
        check_order(name, "random")
    message = (
        "bm25: there is no order 'shufled'. Did you mean 'shuffled'? Known: as-selected, label-interleaved, most-con"
    )
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check_order("shufled", "bm25")


# The order that asks a model


@given(examples)
def test_most_confident_last_goes_by_the_bits_and_keeps_ties(shown):
    expected = sorted(shown, key=lambda e: -StubModel.bits(e.id))
    assert ordered("most-confident-last", shown, None, rng=rng()) == tuple(expected)


def test_bits_are_asked_once_and_only_where_there_is_an_order():
    asked, shown = StubModel(), demonstrations("aabbc")
    bits = ZeroShotBits(asked)
    for some in (shown[:1], shown[:3], shown, shown[2:]):
        order.ordered("most-confident-last", some, None, rng=rng(), bits=bits)
    assert asked.asked == ["0", "1", "2", "3", "4"]
    for name in set(ORDERS) - {"most-confident-last"}:
        order.ordered(name, shown, None, rng=rng(), bits=ZeroShotBits(asked))
    assert len(asked.asked) == 5
    assert bits([*shown, shown[0]]) == [StubModel.bits(e.id) for e in (*shown, shown[0])]


def by_bits(ids: Sequence[str]) -> bool:
    bits = [StubModel.bits(name) for name in ids]
    return bits == sorted(bits, reverse=True)


NAMES = ("random", "bm25", "icl+ft:k=3,lr=1e-3,steps=1,selector=bm25", "icl+ft:k=3,lr=1e-3,steps=1,selector=random")


@pytest.mark.parametrize("name", NAMES)
def test_the_selectors_model_orders_a_stream_and_is_asked_once_for_each_example(words_task, name):
    task, model = Task.load(words_task), kshot.load_model("tiny")
    asked = StubModel(model)
    name += f"{',' if ':' in name else ':'}order=most-confident-last"
    setup = Setup(task, TaskModel.for_task(task, model), 1, selector_model=asked)
    learner = make_learner(parse_recipe(name, shots=4), setup)
    stream = task.train[:12]
    predictions = learner.predict([Query(e, stream[:i]) for i, e in enumerate(stream)])
    assert all(by_bits(p.demonstrations) for p in predictions)
    assert max(len(p.demonstrations) for p in predictions) == (3 if "k=3" in name else 4)
    shown = {name for p in predictions for name in p.demonstrations if len(p.demonstrations) > 1}
    assert sorted(shown) == sorted(asked.asked)


@pytest.mark.parametrize("name", NAMES)
def test_an_adapted_model_keeps_the_order(words_task, tmp_path, monkeypatch, name):
    task, model = Task.load(words_task), kshot.load_model("tiny")
    asked = StubModel(model)
    recipe = parse_recipe(f"{name}{',' if ':' in name else ':'}order=most-confident-last", shots=4)
    setup = Setup(task, TaskModel.for_task(task, model), 1, selector_model=asked)
    adapted = AdaptedModel.fit(recipe, task.train[:12], setup, choice={})
    per_query = recipe.per_query
    assert len(set(asked.asked)) == len(asked.asked)
    assert set(asked.asked) >= {e.id for e in adapted.pool}
    assert set(adapted.fitted.bits) == ({e.id for e in adapted.pool} if per_query else set())
    n_asked = len(asked.asked)
    inputs = [e.input for e in task.test]
    adapted.save(tmp_path / "model")
    # Nobody is asked from here on, though the model that was asked is not saved
    monkeypatch.setattr(TaskModel, "code_lengths", lambda *_: pytest.fail("the bits are known"))
    loaded = kshot.load(tmp_path / "model", model=model)
    found = [[(p.demonstrations, p.probs) for p in a.predictions(inputs)] for a in (adapted, loaded)]
    assert found[0] == found[1]
    assert all(by_bits(ids) for ids, _ in found[0])
    assert len({ids for ids, _ in found[0]}) > 1 or not per_query
    assert len(asked.asked) == n_asked
    if not recipe.trains:
        again = [p.demonstrations for p in loaded.with_model(model).predictions(inputs)]
        assert again == [ids for ids, _ in found[0]]


def test_select_orders_by_the_bits_of_the_model_it_is_given(words_task):
    task, model = Task.load(words_task), kshot.load_model("tiny")
    asked = TaskModel.for_task(task, model)
    for name, query in (("random", None), ("bm25", "which goat?")):
        plain = kshot.select(task, name, 6, query=query)
        got = kshot.select(task, f"{name}:order=most-confident-last", 6, query=query, model=model)
        bits = dict(zip(plain, asked.code_lengths([()] * 6, plain), strict=True))
        assert got == sorted(plain, key=lambda e: -bits[e])


def test_select_without_a_model_says_so(run_cli, words_task):
    args = ("select", words_task, "--selector", "random:order=most-confident-last")
    refused = run_cli(*args, "-k", 3)
    assert refused.code == 2
    message = "The selector 'random:order=most-confident-last' asks a language model; give --model."
    assert message in " ".join(refused.err.split())
    assert run_cli(*args, "-k", 1).code == 0  # one has one order
    assert run_cli(*args, "-k", 3, "--model", "scripted").code == 0


@pytest.mark.parametrize("name", [name for name in SELECTORS if parse_recipe(name, shots=1).selector_needs])
def test_a_selector_that_asks_does_so_only_where_there_is_a_choice(words_task, tmp_path, name):
    task, recipe = write_task(tmp_path / "many", labelled_rows(36)), parse_recipe(name, shots=1)
    query = "a cat" if recipe.per_query else None
    with pytest.raises(UserError, match=f"^The selector '{name}' asks a language model; give --model.$"):
        kshot.select(str(task), name, 3, query=query)
    if recipe.trains_selector:  # only where there is enough to learn from
        assert len(kshot.select(str(words_task), name, 3, query=query)) == 3
    else:
        assert len(kshot.select(str(task), name, 36, query=query)) == 36
