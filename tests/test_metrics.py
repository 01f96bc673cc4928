import time
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from kshot.core.errors import UserError
from kshot.measures.intervals import bootstrap, interval, wilson
from kshot.measures.metrics import METRICS, check_references, compute, get_metric, metric_for, row_score, statistic

LABELS = ("no", "perhaps", "yes")
ORDER = (*LABELS, "stray")  # as metrics of ordered labels see answers that are none
REFERENCES = {
    "accuracy": sk.accuracy_score,
    "macro_f1": lambda g, a: sk.f1_score(g, a, average="macro", zero_division=0),
    "f1": lambda g, a: sk.f1_score([x == "yes" for x in g], [x == "yes" for x in a], zero_division=0),
    "macro_recall": lambda g, a: sk.recall_score(g, a, average="macro", labels=sorted(set(g)), zero_division=0),
    "matthews": lambda g, a: sk.matthews_corrcoef(g, a) if len({*g, *a}) > 1 else 0.0,
    "quadratic_kappa": lambda g, a: (
        sk.cohen_kappa_score(g, a, labels=ORDER, weights="quadratic") if len({*g, *a}) > 1 else 0.0
    ),
    "mae": lambda g, a: sk.mean_absolute_error([ORDER.index(x) for x in g], [ORDER.index(x) for x in a]),
}
rows = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "stray"])), min_size=1, max_size=40)


def of(name, pairs):
    gold, answers = [[g] for g, _ in pairs], [a for _, a in pairs]
    return compute(name, gold, answers, labels=LABELS, positive_label="yes")


@pytest.mark.parametrize("name", REFERENCES)
@given(pairs=rows)
@settings(max_examples=60)
def test_equals_scikit_learn(name, pairs):
    expected = REFERENCES[name]([g for g, _ in pairs], [a for _, a in pairs])
    assert of(name, pairs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(pairs=rows)
@settings(max_examples=20)
def test_stays_in_its_range_and_ignores_the_order_of_rows(name, pairs):
    assert METRICS[name].lowest <= of(name, pairs) <= METRICS[name].highest(len(LABELS) + 1)
    assert of(name, pairs[::-1]) == pytest.approx(of(name, pairs), abs=1e-12)


def test_large_counts_do_not_overflow():
    pairs = [("no", "no"), ("yes", "yes"), ("no", "yes"), ("yes", "yes")] * 30_000
    assert of("matthews", pairs) == pytest.approx(1 / 3**0.5)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_of_a_label_metric_is_right_or_wrong_by_its_first_reference(name):
    assert row_score(name, ["yes", "no"], "yes") == 1.0
    assert row_score(name, ["yes", "no"], "no") == 0.0
    assert row_score(name, ["yes"], "Yes") == 0.0


def test_rows_bring_their_own_labels():
    assert compute("macro_f1", [["(A)"], ["(B)"]], ["(A)", "(A)"], labels=()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("use", [get_metric, lambda name: row_score(name, ["a"], "a"), lambda name: of(name, [])])
def test_unknown_metric(use):
    with pytest.raises(UserError, match="there is no metric 'acuracy'. Did you mean 'accuracy'"):
        use("acuracy")


def test_exact_match_is_forgiving_in_question_answering_alone():
    assert metric_for("exact_match", "qa") == "squad_exact_match"
    assert metric_for("exact_match", "parsing") == "exact_match"
    assert metric_for("squad_f1", "qa") == "squad_f1"


@pytest.mark.parametrize("positive", [None, "maybe"])
def test_f1_needs_a_positive_label(positive):
    with pytest.raises(UserError, match=f"needs 'positive_label' .* one of no, perhaps, yes; got {positive}"):
        compute("f1", [["yes"]], ["no"], labels=LABELS, positive_label=positive)


@pytest.mark.parametrize("name", METRICS)
def test_no_answers_are_no_error(name):
    assert isnan(of(name, []))


@pytest.mark.parametrize("name", METRICS)
def test_references_and_answers_must_be_as_many(name):
    with pytest.raises(ValueError, match="zip"):
        statistic(name, [["yes"]], [], labels=LABELS, positive_label="yes")


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"exact_match_number", "smape_score", "entity_f1", "slot_f1"}))
def test_any_text_can_be_a_reference(name):
    check_references(name, "train-1", ["", "!", "a\nb", "漢字", "the"])


@pytest.mark.parametrize("name", REFERENCES)
def test_resamples_equal_scikit_learn(name):
    rng = np.random.default_rng(3)
    gold, answers = rng.choice(LABELS, 60), rng.choice(LABELS, 60)
    value = statistic(name, gold[:, None].tolist(), answers.tolist(), labels=LABELS, positive_label="yes")
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
    gold, answers = [["yes"], ["no"]] * 20, ["yes", "yes", "no", "no"] * 10

    def at(name, seed):
        return interval(name, gold, answers, labels=LABELS, positive_label="yes", rng=np.random.default_rng(seed))

    assert at("accuracy", 0) == (0.5, *wilson(20, 40))
    assert at("macro_f1", 0) == at("macro_f1", 0) != at("macro_f1", 1)
    value, low, high = at("f1", 0)
    assert low < value < high


@pytest.mark.parametrize("name", ["exact_match", "squad_exact_match", "set_exact_match", "exact_match_number"])
def test_interval_is_wilson_where_rows_are_right_or_wrong(name):
    rng = np.random.default_rng(0)
    assert interval(name, [["1"]] * 9, list("111111122"), labels=(), rng=rng) == (pytest.approx(7 / 9), *wilson(7, 9))


def test_interval_of_fractional_scores_is_narrower_than_wilson():
    references, answers = [["one two"], ["one two three"]] * 20, ["one"] * 40
    value, low, high = interval("squad_f1", references, answers, labels=(), rng=np.random.default_rng(0))
    assert value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert 0.5 < low < value < high < 2 / 3


@pytest.mark.parametrize("name", METRICS)
def test_interval_of_one_row_or_none_claims_nothing(name):
    rng = np.random.default_rng(0)
    value, low, high = interval(name, [], [], labels=LABELS, positive_label="yes", rng=rng)
    assert isnan(value)
    assert (low, high) == (METRICS[name].lowest, METRICS[name].highest(len(LABELS)))
    _, low, high = interval(name, [["yes"]], ["yes"], labels=LABELS, positive_label="yes", rng=rng)
    assert high - low > 0.5


def test_bootstrap_is_quick_with_many_labels():
    rng = np.random.default_rng(0)
    labels = [f"intent {i}" for i in range(150)]
    gold, answers = rng.choice(labels, (500, 1)).tolist(), rng.choice(labels, 500).tolist()
    start = time.process_time()
    interval("macro_f1", gold, answers, labels=labels, rng=rng)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", sorted(METRICS.keys() - REFERENCES.keys()))
def test_bootstrap_is_quick_with_sentences(name):
    rng = np.random.default_rng(0)
    texts = [" ".join(words) for words in rng.choice(["alpha=1;", "beta [x];", "gamma", "12."], (1200, 25))]
    references = [texts[i : i + 3] for i in range(0, 900, 3)]
    start = time.process_time()
    label = texts[0] if METRICS[name].needs_positive else None
    interval(name, references, texts[900:], labels=(label,) if label else (), positive_label=label, rng=rng)
    assert time.process_time() - start < 2  # some 0.2 s, with room for a busy machine


def test_perfect_answers_are_no_certainty():
    """Resamples of equal rows never differ; Wilson's interval says how little eight rows are."""
    low, high = wilson(8, 8)
    for name in ("bleu", "squad_f1", "macro_f1"):
        rows = [[f"one two three four {i}"] for i in range(8)]
        found = interval(name, rows, [r[0] for r in rows], labels=(), rng=np.random.default_rng(0))
        assert found == pytest.approx((1.0, low, high))
    missed = interval("bleu", [["a b c d"]] * 8, ["x"] * 8, labels=(), rng=np.random.default_rng(0))
    assert missed == pytest.approx((0.0, *wilson(0, 8)))
