import warnings

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.types import Example, Question, Task
from kshot.methods.classifiers import CLASSIFIERS
from kshot.methods.classifiers.embedding import EmbeddingLogistic
from kshot.methods.classifiers.majority import Majority
from kshot.methods.classifiers.tfidf import TfidfLogistic
from kshot.methods.contracts import Classifier
from kshot.recipes.grammar import parse_recipe

ROWS = [
    ("Who painted the ceiling ?", "human"),
    ("How far is the moon ?", "number"),
    ("Who wrote the play Hamlet ?", "human"),
    ("How many people live in Peru ?", "number"),
    ("Who painted the Mona Lisa ?", "human"),
    ("Where is the river Elbe ?", "location"),
]
LABELS = ("abbreviation", "human", "location", "number")
TRAIN = tuple(Example(t, o, id=str(i)) for i, (t, o) in enumerate(ROWS))
QUERIES = [Question("Who painted the Night Watch ?", "q0"), Question("How far is Peru ?", "q1")]
TASK = Task("toy", "classification", TRAIN, labels=LABELS)
RNG = np.random.default_rng(0)


@pytest.fixture(
    params=[name for name in CLASSIFIERS if CLASSIFIERS.find(name).learns and not CLASSIFIERS.find(name).writes]
)
def classifier(request) -> Classifier:
    return CLASSIFIERS.find(request.param)()


@pytest.mark.parametrize("n", range(len(TRAIN) + 1))
def test_contract_probabilities(classifier, n):
    assert classifier.suits(TASK)
    rows = classifier.fit(TASK, TRAIN[:n], rng=RNG).probabilities(QUERIES)
    assert len(rows) == len(QUERIES)
    for row in rows:
        assert row.shape == (len(LABELS),)
        assert (row >= 0).all()
        assert row.sum() == pytest.approx(1, abs=1e-12)


def test_contract_no_examples_give_the_uniform(classifier):
    for row in classifier.fit(TASK, [], rng=RNG).probabilities(QUERIES):
        np.testing.assert_allclose(row, 0.25)


def test_contract_one_label_gives_smoothed_frequencies(classifier):
    fitted = classifier.fit(TASK, [TRAIN[0], TRAIN[2]], rng=RNG)
    for row in fitted.probabilities(QUERIES):
        np.testing.assert_allclose(row, [1 / 6, 3 / 6, 1 / 6, 1 / 6])


def test_contract_no_queries(classifier):
    assert classifier.fit(TASK, TRAIN, rng=RNG).probabilities([]) == []


def test_contract_fit_is_repeatable_and_changes_nothing(classifier):
    before = dict(vars(classifier))
    first = classifier.fit(TASK, TRAIN, rng=np.random.default_rng(1)).probabilities(QUERIES)
    second = classifier.fit(TASK, TRAIN, rng=np.random.default_rng(1)).probabilities(QUERIES)
    assert np.array_equal(first, second)
    assert vars(classifier) == before


def test_contract_a_free_text_task_does_not_suit(classifier):
    assert not classifier.suits(Task("toy", "generation", TRAIN))


@pytest.mark.parametrize("cls", [TfidfLogistic, EmbeddingLogistic])
def test_logistic_learns_and_gives_unseen_labels_nothing(cls):
    human, number = cls().fit(TASK, TRAIN, rng=RNG).probabilities(QUERIES)
    assert LABELS[human.argmax()] == "human"
    assert LABELS[number.argmax()] == "number"
    assert human[0] == number[0] == 0
    assert not cls().suits(Task("toy", "multiple_choice", TRAIN))


@pytest.mark.parametrize(("cls", "name"), [(TfidfLogistic, "tfidf-lr"), (EmbeddingLogistic, "embedding-lr")])
@pytest.mark.parametrize("C", [0, -1.0, float("nan")])
def test_logistic_strength_is_checked(cls, name, C):
    with pytest.raises(UserError, match=f"^C must be greater than 0; got {C}"):
        cls(C=C)
    with pytest.raises(UserError, match=f"^{name}:C must be greater than 0; got {float(C)}"):
        parse_recipe(f"{name}:C={C}", shots=4)


def test_logistic_reads_the_context():
    examples = [Example("same", o, id=o, context=c) for o, c in [("human", "painter"), ("number", "seven")]]
    query = Question("same", "q", context="seven")
    assert TfidfLogistic().fit(TASK, examples, rng=RNG).probabilities([query])[0].argmax() == 3


def test_tfidf_copes_with_inputs_without_words():
    examples = [Example("?", "human", id="0"), Example("!", "number", id="1")]
    row = TfidfLogistic().fit(TASK, examples, rng=RNG).probabilities([Question("!", "q")])[0]
    assert row.argmax() == 3


def test_logistic_converges_on_separable_data():
    examples = [Example(f"word{i} other{i % 7}", LABELS[i % 4], id=str(i)) for i in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TfidfLogistic(C=1e6).fit(TASK, examples, rng=RNG).probabilities(QUERIES)


def choice_row(output: str, n: int) -> Example:
    return Example("?", output, id="c", choices=tuple("wxyz"[:n]))


@pytest.mark.parametrize(("letters", "outputs"), [(True, ("(B)", "(B)", "(D)")), (False, ("x", "x", "z"))])
def test_majority_counts_positions_of_choices(letters, outputs):
    task = Task("toy", "multiple_choice", (), choices_in_input=letters)
    fitted = Majority().fit(task, [choice_row(o, 4) for o in outputs], rng=RNG)
    four, two = fitted.probabilities([choice_row("", 4).question, choice_row("", 2).question])
    np.testing.assert_allclose(four, [1 / 7, 3 / 7, 1 / 7, 2 / 7])
    np.testing.assert_allclose(two, [1 / 4, 3 / 4])
