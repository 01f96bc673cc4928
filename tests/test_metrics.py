import time
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from kshot.core.errors import UserError
from kshot.evaluation.metrics import METRICS, compute, statistic
from kshot.evaluation.statistics import bootstrap, interval, wilson

LABELS = ("no", "perhaps", "yes")
REFERENCES = {
    "accuracy": sk.accuracy_score,
    "macro_f1": lambda g, a: sk.f1_score(g, a, average="macro", zero_division=0),
    "f1": lambda g, a: sk.f1_score([x == "yes" for x in g], [x == "yes" for x in a], zero_division=0),
    "macro_recall": lambda g, a: sk.recall_score(g, a, average="macro", labels=sorted(set(g)), zero_division=0),
    "matthews": lambda g, a: sk.matthews_corrcoef(g, a) if len({*g, *a}) > 1 else 0.0,
}
rows = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "stray"])), min_size=1, max_size=40)


def of(name, pairs):
    gold, answers = [g for g, _ in pairs], [a for _, a in pairs]
    return compute(name, gold, answers, labels=LABELS, positive_label="yes")


def test_every_metric_has_a_reference():
    assert REFERENCES.keys() == METRICS.keys()


@pytest.mark.parametrize("name", METRICS)
@given(pairs=rows)
def test_equals_scikit_learn(name, pairs):
    expected = REFERENCES[name]([g for g, _ in pairs], [a for _, a in pairs])
    assert of(name, pairs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(pairs=rows)
def test_stays_in_its_range_and_ignores_the_order_of_rows(name, pairs):
    assert METRICS[name].lowest <= of(name, pairs) <= 1
    assert of(name, pairs[::-1]) == of(name, pairs)


def test_large_counts_do_not_overflow():
    pairs = [("no", "no"), ("yes", "yes"), ("no", "yes"), ("yes", "yes")] * 30_000
    assert of("matthews", pairs) == pytest.approx(1 / 3**0.5)


def test_rows_of_accuracy():
    score = METRICS["accuracy"].row
    assert score is not None
    assert (score("yes", "yes"), score("yes", "no")) == (1.0, 0.0)


def test_rows_bring_their_own_labels():
    assert compute("macro_f1", ["(A)", "(B)"], ["(A)", "(A)"], labels=()) == pytest.approx(1 / 3)


def test_unknown_metric():
    with pytest.raises(UserError, match="there is no metric 'acuracy'. Did you mean 'accuracy'"):
        compute("acuracy", [], [], labels=LABELS)


@pytest.mark.parametrize("positive", [None, "maybe"])
def test_f1_needs_a_positive_label(positive):
    with pytest.raises(UserError, match=f"needs 'positive_label' .* one of no, perhaps, yes; got {positive}"):
        compute("f1", ["yes"], ["no"], labels=LABELS, positive_label=positive)


@pytest.mark.parametrize("name", METRICS)
def test_resamples_equal_scikit_learn(name):
    rng = np.random.default_rng(3)
    gold, answers = rng.choice(LABELS, 60), rng.choice(LABELS, 60)
    value = statistic(name, gold.tolist(), answers.tolist(), labels=LABELS, positive_label="yes")
    for _ in range(20):
        drawn = rng.integers(60, size=60)
        assert value(drawn) == pytest.approx(REFERENCES[name](gold[drawn], answers[drawn]), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (7, 10), (0, 50), (50, 50), (311, 500)])
def test_wilson_equals_scipy(k, n):
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_of_nothing_and_of_a_known_value():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe (1998), table I


@given(n=st.integers(1, 1000), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_contains_the_proportion(n, share, level):
    low, high = wilson(share * n, n, level)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    wider = wilson(share * n, n, 0.9995)
    assert wider[0] <= low + 1e-12
    assert high <= wider[1] + 1e-12


def test_bootstrap_of_a_mean_is_close_to_the_normal_interval():
    sample = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda i: float(sample[i].mean()), 400, rng=np.random.default_rng(1), resamples=4000)
    reach = 1.96 * sample.std() / 20
    assert (low, high) == pytest.approx((sample.mean() - reach, sample.mean() + reach), abs=0.01)


def test_interval_is_wilson_for_accuracy_and_repeatable_for_the_others():
    gold, answers = ["yes", "no"] * 20, ["yes", "yes", "no", "no"] * 10

    def at(name, seed):
        return interval(name, gold, answers, labels=LABELS, positive_label="yes", rng=np.random.default_rng(seed))

    assert at("accuracy", 0) == (0.5, *wilson(20, 40))
    assert at("macro_f1", 0) == at("macro_f1", 0) != at("macro_f1", 1)
    value, low, high = at("f1", 0)
    assert low < value < high


@pytest.mark.parametrize("name", METRICS)
def test_interval_of_one_row_or_none_claims_nothing(name):
    rng = np.random.default_rng(0)
    value, low, high = interval(name, [], [], labels=LABELS, positive_label="yes", rng=rng)
    assert isnan(value)
    assert (low, high) == (METRICS[name].lowest, 1.0)
    _, low, high = interval(name, ["yes"], ["yes"], labels=LABELS, positive_label="yes", rng=rng)
    assert high - low > 0.5


def test_bootstrap_is_quick_with_many_labels():
    rng = np.random.default_rng(0)
    labels = [f"intent {i}" for i in range(150)]
    gold, answers = rng.choice(labels, 500).tolist(), rng.choice(labels, 500).tolist()
    start = time.perf_counter()
    interval("macro_f1", gold, answers, labels=labels, rng=rng)
    assert time.perf_counter() - start < 3
