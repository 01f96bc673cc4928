"""The selector `bm25-major`; the contract of all selectors is tried in test_selection.py."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.core.errors import UserError
from kshot.core.types import Example, Task
from kshot.methods.selectors.bm25_major import Bm25Major
from kshot.recipes.grammar import parse_recipe, parse_recipes
from kshot.verbs.select import select

WORDS = ("who", "painted", "the", "moon", "far", "rivers", "")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def examples(texts: list[str]) -> list[Example]:
    return [Example(text, "", id=str(i)) for i, text in enumerate(texts)]


def chosen(pool: list[Example], k: int) -> list[int]:
    return Bm25Major().fit(pool, model=None, rng=rng()).select(None, k, rng=rng())


def naive_means(texts: list[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Return each text's score as a document, by the formula, averaged over all texts as queries."""
    documents = [text.split() for text in texts]
    n, mean_length = len(documents), sum(map(len, documents)) / len(documents)

    def score(query: list[str], document: list[str]) -> float:
        total = 0.0
        for word in query:
            tf, n_with = document.count(word), sum(word in d for d in documents)
            if tf:
                idf = log(1 + (n - n_with + 0.5) / (n_with + 0.5))
                total += idf * tf / (tf + k1 * (1 - b + b * len(document) / mean_length))
        return total

    return [sum(score(query, document) for query in documents) / n for document in documents]


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=8))
def test_the_best_on_average_by_the_formula(texts):
    means = naive_means(texts)
    fitted = Bm25Major().fit(examples(texts), model=None, rng=rng())
    for k in range(len(texts) + 2):
        got = fitted.select(None, k, rng=rng())
        assert [means[i] for i in got] == pytest.approx(sorted(means)[max(0, len(texts) - k) :])


def test_by_eye():
    texts = ["who painted the moon", "the river", "who painted the river", "xyzzy"]
    assert chosen(examples(texts), 2) == [0, 2]  # the one that has the others' words stands next to the query
    assert chosen(examples(texts), 4)[-1] == 2


@pytest.mark.parametrize("text", ["who painted the moon", "", "?!"])
def test_equals_are_taken_in_the_order_of_the_pool(text):
    assert chosen(examples([text] * 40), 3) == [2, 1, 0]


@pytest.mark.parametrize("k", [3, 4, 99])
def test_a_small_pool_is_taken_whole(k):
    assert sorted(chosen(examples(["a b", "b c", "c"]), k)) == [0, 1, 2]
    assert chosen([], k) == []


def test_the_context_counts():
    contexts = (None, "moons", "moons")
    pool = [Example("the same", "", id=str(i), context=context) for i, context in enumerate(contexts)]
    assert chosen(pool, 2) == [2, 1]


def test_it_is_a_recipe_that_has_to_be_named():
    names = [recipe.name for recipe in parse_recipes("all", shots=4)]
    assert "bm25-major" not in names
    assert "bm25" in names
    recipe = parse_recipe("bm25-major:k=3,order=shuffled", shots=4)
    assert (recipe.k, recipe.part("selector")) == (3, Bm25Major())


def test_it_chooses_for_the_whole_task(words_task):
    task = Task.load(words_task)
    assert len(select(task, "bm25-major", 4)) == 4
    with pytest.raises(UserError, match="--query must come with a selector that chooses by it; 'bm25-major' does not"):
        select(task, "bm25-major", 4, query="which goat?")
