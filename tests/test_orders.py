from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.selection.bm25 import Bm25
from kshot.selection.order import AS_SELECTED, ORDERS, check_order, ordered

WORDS = ("who", "painted", "the", "moon", "far", "")
QUERY = Example("who painted the moon", "", id="q")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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
    assert list(ORDERS) == ["as-selected", "nearest-last", "label-interleaved", "shuffled"]
    assert AS_SELECTED == "as-selected"


@given(examples)
def test_as_selected_changes_nothing(shown):
    assert ordered("as-selected", shown, QUERY, rng=rng()) == tuple(shown)


@given(examples)
def test_nearest_last_goes_by_bm25_and_keeps_ties(shown):
    scores = dict(zip(shown, Bm25().indexed(shown).scores(QUERY.text), strict=True))
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
        "bm25: there is no order 'shufled'. Did you mean 'shuffled'? Known: as-selected, label-interleaved, nearest-"
    )
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check_order("shufled", "bm25")
