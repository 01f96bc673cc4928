"""Ordered labels: their order is told, distances count in metrics and in the choice, and everything keeps the order."""

import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

import kshot
from conftest import write_task
from kshot.core.errors import InvalidInputError, UserError
from kshot.core.types import Example, Prediction, Task
from kshot.estimator import FewShotClassifier
from kshot.evaluators.letter_case import LetterCase
from kshot.measures.calibration import Calibration
from kshot.measures.intervals import interval
from kshot.measures.metrics import compute, row_score
from kshot.measures.ordered import as_answered, boundary_margins, median, right_sides
from kshot.measures.samples import check_metrics, sample_row
from kshot.race.ranking import evidence, valued, valued_in_order
from kshot.tasks.load import load_task
from kshot.tasks.order import likely_order
from kshot.tasks.rows import BadRowsError

STARS = ("1", "2", "3", "4", "5")
SEVERITY = ("low", "medium", "high")  # the order of the alphabet is another one
WORDS = {"low": ("speck", "scratch"), "medium": ("crack", "dent"), "high": ("fire", "flood")}
pairs = st.lists(st.tuples(st.sampled_from(STARS), st.sampled_from(STARS)), min_size=1, max_size=40)


def severity_rows(n, seed=0):
    rng = random.Random(seed)
    labels = [rng.choice(SEVERITY) for _ in range(n)]
    return [{"input": f"case {seed}-{i}: a {rng.choice(WORDS[x])}", "output": x} for i, x in enumerate(labels)]


@pytest.fixture(scope="module")
def severity(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "severity"
    return write_task(folder, severity_rows(30), severity_rows(12, seed=1), {"order": SEVERITY})


@pytest.fixture(scope="module")
def run(severity, tmp_path_factory):
    return kshot.adapt(severity, "scripted", recipes="bm25,tfidf-lr,majority", out=tmp_path_factory.mktemp("run") / "r")


@given(pairs=pairs)
def test_metrics_equal_scikit_learn_also_where_labels_do_not_occur(pairs):
    gold, answers = [g for g, _ in pairs], [a for _, a in pairs]
    found = {name: compute(name, [[g] for g in gold], answers, labels=STARS) for name in ("quadratic_kappa", "mae")}
    assert found["mae"] == pytest.approx(mean_absolute_error([*map(int, gold)], [*map(int, answers)]), abs=1e-12)
    if len({*gold, *answers}) > 1:
        expected = cohen_kappa_score(gold, answers, labels=STARS, weights="quadratic")
        assert found["quadratic_kappa"] == pytest.approx(expected, abs=1e-12)
    else:
        assert found["quadratic_kappa"] == 0  # 0 / 0: one label alone says nothing


def test_the_order_is_that_of_the_labels_and_not_of_the_alphabet():
    gold, answers = [[x] for x in ("low", "medium", "high")], ["low", "high", "high"]
    assert compute("mae", gold, answers, labels=SEVERITY) == pytest.approx(1 / 3)
    assert compute("mae", gold, answers, labels=sorted(SEVERITY)) == pytest.approx(2 / 3)


def test_a_row_is_scored_by_its_distance_and_intervals_of_errors_hold_them():
    assert [row_score("quadratic_kappa", ["low"], x, SEVERITY) for x in SEVERITY] == [1.0, 0.5, 0.0]
    assert row_score("quadratic_kappa", ["low"], "medium") == 0  # without the order it is right or wrong
    perfect = interval("mae", [["1"]] * 20, ["1"] * 20, labels=STARS, rng=np.random.default_rng(0))
    assert perfect[:2] == (0, 0)
    assert 0.05 < perfect[2] < 0.3  # no certainty
    one_off = interval("mae", [["1"]] * 20, ["2"] * 20, labels=STARS, rng=np.random.default_rng(0))
    assert one_off[1] <= 1 == one_off[0] <= one_off[2]
    assert interval("mae", [["1"]], ["1"], labels=STARS, rng=np.random.default_rng(0)) == (0, 0, 4)


def row(gold, answer, probs, candidates=STARS):
    return {"gold": gold, "answer": answer, "candidates": candidates, "log_probs": np.log(probs), "score": 0.0}


distributions = st.lists(st.integers(1, 1000), min_size=5, max_size=5).map(lambda n: np.array(n) / sum(n))


@given(probs=distributions, gold=st.sampled_from(STARS))
def test_boundaries_answered_wrongly_are_the_distance_of_the_median(probs, gold):
    answer = median(STARS, probs)
    margins = boundary_margins(row(gold, answer, probs))
    wrong = int((right_sides(row(gold, answer, probs)) == 0).sum())
    assert wrong == abs(STARS.index(answer) - STARS.index(gold))
    clear = np.abs(margins) > 1e-9
    assert ((margins < 0) == (right_sides(row(gold, answer, probs)) == 0))[clear].all()
    expected = [sum(p * abs(i - j) for j, p in enumerate(probs)) for i in range(5)]
    assert expected[STARS.index(answer)] == pytest.approx(min(expected))  # the median has the least expected distance


def test_the_choice_values_the_median_that_is_given():
    logs = np.log([0.45, 0.01, 0.02, 0.02, 0.5])
    cooled = Calibration(temperature=8.0).of(Prediction("a", STARS, tuple(logs), tuple(np.exp(logs)), "5"))
    task = Task("t", "classification", (), labels=STARS, ordered=True, answer="median", metrics=("quadratic_kappa",))
    given = sample_row(task, "r", 0, Example("x", "3", "a"), cooled)
    assert median(STARS, np.exp(logs)) == "4"
    assert given["answer"] == "3"
    assert (boundary_margins(given, calibrated=True) > 0).all()
    rows = [{**given, "position": i} for i in range(2)]
    assert evidence(task, rows, by="metric").stream.mean() > 0.99
    most_probable = replace(task, answer="most-probable")
    assert evidence(most_probable, rows, by="metric").stream.mean() < 0.99


def test_of_two_labels_worth_is_that_of_right_and_wrong():
    rng = np.random.default_rng(3)
    some = [
        row(gold, "b" if p > 0.5 else "a", [1 - p, p], ("a", "b"))
        for gold, p in zip(rng.choice(["a", "b"], 30), rng.uniform(0.01, 0.99, 30), strict=True)
    ]
    assert valued_in_order(some) == pytest.approx(valued(some))


def test_near_misses_are_worth_more_in_the_choice():
    near, far = row("1", "2", [0.1, 0.6, 0.1, 0.1, 0.1]), row("1", "5", [0.1, 0.1, 0.1, 0.1, 0.6])
    task = Task("t", "classification", (), labels=STARS, ordered=True, metrics=("quadratic_kappa", "mae"))
    rows = [{**r, "position": i, "bits": 1.0} for i, r in enumerate([near, far])]
    ordered = evidence(task, rows, by="metric").stream
    assert ordered[0] > ordered[1] + 0.3
    plain = evidence(replace(task, ordered=False, metrics=("accuracy",)), rows, by="metric").stream
    assert plain[0] == pytest.approx(plain[1])


def test_median_ties_go_to_the_lower_label_whatever_the_rounding():
    assert median(STARS, [0.1, 0.2, 0.2, 0.25, 0.25]) == "3"
    assert median(STARS, [0.5, 0, 0, 0, 0.5]) == "1"


def test_the_median_is_given_only_where_the_task_says_so(severity, tmp_path):
    task = load_task(severity)
    said = Prediction("a", SEVERITY, (0, 0, 0), (0.4, 0.25, 0.35), "low")
    assert as_answered(task, said).answer == "low"
    assert as_answered(replace(task, answer="median"), said).answer == "medium"
    card = {"order": SEVERITY, "answer": "median", "metrics": ["quadratic_kappa", "mae"]}
    folder = write_task(tmp_path / "t", severity_rows(20), [], card)
    assert load_task(folder).fingerprint != load_task(severity).fingerprint
    best = kshot.adapt(folder, "scripted", recipes="bm25", shots=2, out=tmp_path / "run").best
    best.save(tmp_path / "saved")
    loaded = kshot.load(tmp_path / "saved")
    assert (loaded.task.ordered, loaded.task.answer, loaded.labels) == (True, "median", SEVERITY)
    rows = load_task(folder / "train.jsonl", learnt=loaded.task)
    assert (rows.labels, rows.ordered, rows.answer) == (SEVERITY, True, "median")
    for model in (best, loaded):
        for p in model.predictions(["a dent and a speck", "a flood"]):
            assert p.answer == median(p.candidates, p.probs)


def test_a_card_says_the_order_and_metrics_follow(severity):
    task = load_task(severity)
    assert (task.labels, task.ordered) == (SEVERITY, True)
    assert task.metrics == ("quadratic_kappa", "mae", "accuracy")
    assert not any("look ordered" in note for note in task.notes)


def test_numbers_of_an_order_are_labels_of_rows_with_numbers(tmp_path):
    rows = [{"input": f"text {i}", "output": i % 3 + 1} for i in range(9)]
    task = load_task(write_task(tmp_path / "t", rows, [], {"order": [3, 2, 1]}))
    assert (task.labels, task.ordered) == (("3", "2", "1"), True)


def test_a_task_without_an_order_or_a_positive_label_has_the_fingerprint_that_it_had():
    task = Task("t", "classification", (Example("a", "x", "1"), Example("b", "y", "2")), labels=("x", "y"))
    assert task.fingerprint == "636dab3dd8708ddfffc3e69e13c48ce687f3ab5448479900d0c6b5008b24eb6b"
    others = (replace(task, ordered=True), replace(task, positive_label="x"), replace(task, positive_label="y"))
    assert len({one.fingerprint for one in (task, *others)}) == 4


def test_the_record_and_the_report_have_the_order_and_all_metrics(run):
    results = json.loads((run.folder / "results.json").read_text())
    assert results["task"]["labels"] == list(SEVERITY)
    assert results["task"]["ordered"] is True
    page = (run.folder / "report.html").read_text()
    assert "Labels in their order: low &lt; medium &lt; high" in page
    assert '"labels":["low","medium","high"],"ordered":true' in page
    values = results["results"][f"{results['task']['name']}|{run.chosen}"]
    for name in ("quadratic_kappa", "mae", "accuracy"):
        assert f"<td>{values[f'{name},none']:.3f} <small>" in page
    rows = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    for r in (r for r in rows if r["recipe"] == run.chosen):
        assert r["candidates"] == list(SEVERITY)
        assert r["score"] == 1 - abs(SEVERITY.index(r["gold"]) - SEVERITY.index(r["answer"])) / 2
        assert r["bits"] == pytest.approx(-np.log2(r["probs"][SEVERITY.index(r["gold"])]))  # the label's own bits


def test_evaluate_predict_and_validate_keep_the_order(run, severity, run_cli, tmp_path):
    found = run_cli("evaluate", run.folder, severity, "--json").json
    rows = [json.loads(line) for line in (severity / "test.jsonl").read_text().splitlines()]
    gold, answers = [r["output"] for r in rows], run.best.predict([r["input"] for r in rows])
    assert found["metrics"]["quadratic_kappa"][0] == pytest.approx(
        cohen_kappa_score(gold, answers, labels=SEVERITY, weights="quadratic"), abs=1e-12
    )
    places = [[SEVERITY.index(x) for x in some] for some in (gold, answers)]
    assert found["metrics"]["mae"][0] == pytest.approx(mean_absolute_error(*places), abs=1e-12)
    alone = run_cli("evaluate", run.folder, severity / "test.jsonl", "--json").json
    assert alone["metrics"] == found["metrics"]
    assert "; accuracy " in run_cli("evaluate", run.folder, severity).out
    asked = tmp_path / "in.txt"
    asked.write_text("a flood\n")
    (answer,) = run_cli("predict", run.folder, asked, "--json").json["predictions"]
    assert list(answer["probs"]) == list(SEVERITY)
    said = run_cli("validate", severity, "--model", "scripted")
    assert "labels low < medium < high" in said.out
    assert run_cli("validate", severity, "--json").json["ordered"] is True


def test_test_rows_in_another_order_are_refused_and_in_none_are_read_in_the_learnt_one(run, tmp_path):
    rows = severity_rows(8, seed=5)
    other = write_task(tmp_path / "other", rows, rows, {"order": ["high", "medium", "low"]})
    with pytest.raises(UserError, match="must be in the order that was learnt, low < medium < high; got high < medium"):
        run.best.evaluate(load_task(other))
    none = write_task(tmp_path / "none", rows, rows, {"order": []})
    found = run.best.evaluate(replace(load_task(none), metrics=("quadratic_kappa", "mae")))
    answers = run.best.predict([r["input"] for r in rows])
    expected = cohen_kappa_score([r["output"] for r in rows], answers, labels=SEVERITY, weights="quadratic")
    assert found["metric"] == pytest.approx(expected, abs=1e-12)


BAD_CARDS = {
    "twice": ({"order": ["low", "high", "low"]}, "'order' must differ; 'low' is there twice."),
    "one": ({"order": ["low"]}, "'order' must have two labels or more, the lowest first; got low."),
    "kind": ({"order": SEVERITY, "kind": "qa"}, "'order' is of labels, and the kind is qa; leave one of them out."),
    "missing": (
        {"order": ["low", "high"], "labels": SEVERITY},
        "'order' must have each label once, the lowest first; 'medium' of 'labels' is not in it; write 'order' alone.",
    ),
    "unknown": ({"order": [*SEVERITY, "fatal"], "labels": SEVERITY}, "'fatal' is not in 'labels'; write 'order' alone"),
    "type": ({"order": [True, "x"]}, "'order' item 1 is not as it must be; got a boolean (true)"),
    "median": ({"answer": "median"}, "'answer' is \"median\", which needs an order of the labels"),
    "answer": ({"order": SEVERITY, "answer": "mean"}, "'answer' is not as it must be; got a string (\"mean\")"),
}


@pytest.mark.parametrize("name", BAD_CARDS)
def test_a_card_with_a_bad_order_is_refused(name, tmp_path):
    card, message = BAD_CARDS[name]
    folder = write_task(tmp_path / "t", severity_rows(9), [], card)
    with pytest.raises(UserError) as caught:
        load_task(folder)
    assert message in str(caught.value)
    assert "task.json" in str(caught.value)


def test_a_label_outside_the_order_is_named_with_its_row(tmp_path):
    rows = [*severity_rows(8), {"input": "the end", "output": "hihg"}]
    with pytest.raises(BadRowsError) as caught:
        load_task(write_task(tmp_path / "t", rows, [], {"order": SEVERITY}))
    message = "'hihg' is not in the order of the labels, low < medium < high; correct it, or put it into its place."
    assert message in str(caught.value)
    assert "row 9" in str(caught.value)
    assert "Did you mean 'high'?" in str(caught.value)


@pytest.mark.parametrize(
    ("metrics", "ordered", "message"),
    [
        (("quadratic_kappa",), False, "the metric quadratic_kappa needs the order of the labels, the lowest first;"),
        (("accuracy", "mae"), False, "the metric mae needs the order of the labels"),
        (("mae",), True, "the first metric of a task must be one of which more is better"),
    ],
)
def test_metrics_of_order_are_refused_where_they_cannot_be(metrics, ordered, message):
    task = Task("t", "classification", (), labels=SEVERITY, metrics=metrics, ordered=ordered)
    with pytest.raises(UserError) as caught:
        check_metrics(task)
    assert message in str(caught.value)


def test_tasks_built_in_python_are_checked():
    train = (Example("a", "x", "1"), Example("b", "y", "2"))
    task = Task("t", "classification", train, labels=("x", "y"))
    for changed, message in (
        ({"ordered": "yes"}, "ordered must be True, with two labels or more, the lowest first, or False; got 'yes'"),
        ({"answer": "median"}, "answer must be 'most-probable', or of ordered labels 'median'; got 'median'"),
    ):
        with pytest.raises(UserError) as caught:
            kshot.adapt(replace(task, **changed), "scripted", recipes="bm25")
        assert message in str(caught.value)


@pytest.mark.parametrize("order", list(itertools.permutations(("small", "medium", "large")))[:3])
def test_labels_that_look_ordered_are_said(order, tmp_path):
    rows = [{"input": f"text {i}", "output": order[i % 3]} for i in range(9)]
    said = "the labels look ordered (small < medium < large); if they are, give their order in task.json as 'order'"
    assert any(said in note for note in load_task(write_task(tmp_path / "a", rows)).notes)
    none = load_task(write_task(tmp_path / "b", rows, [], {"order": []}))
    assert not any("look ordered" in note for note in none.notes)
    assert not none.ordered


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "8"], ("8", "9", "10")),
        (["-1", "0", "1"], ("-1", "0", "1")),
        (["3 stars", "1 star", "2 stars"], ("1 star", "2 stars", "3 stars")),
        (["Very Negative", "negative", "NEUTRAL", "positive"], ("Very Negative", "negative", "NEUTRAL", "positive")),
        (["critical", "minor", "major"], ("minor", "major", "critical")),
        (["high", "low"], None),
        (["high", "low", "blue"], None),
        (["1", "1.0", "2"], None),
        (["animal", "food", "tool"], None),
        (["mild", "minor", "major"], None),  # two words for one step
        ([str(i) for i in range(77)], None),  # numbers of classes
    ],
)
def test_which_labels_look_ordered(labels, order):
    assert likely_order(labels) == order


TEXTS = [r["input"] for r in severity_rows(24)]
LABELS = [r["output"] for r in severity_rows(24)]


def test_the_estimator_takes_an_order_and_keeps_its_columns():
    fitted = FewShotClassifier("scripted", recipe="bm25", shots=2, order=SEVERITY).fit(TEXTS, LABELS)
    plain = FewShotClassifier("scripted", recipe="bm25", shots=2).fit(TEXTS, LABELS)
    assert fitted.classes_.tolist() == plain.classes_.tolist() == sorted(SEVERITY)
    assert fitted.adapted_.labels == SEVERITY
    assert fitted.adapted_.task.metrics[0] == "quadratic_kappa"
    asked = ["a flood", "a scratch", "a dent"]
    proba = fitted.predict_proba(asked)
    assert fitted.predict(asked).tolist() == fitted.classes_[proba.argmax(1)].tolist()
    said = fitted.adapted_.predictions(asked)
    assert proba[0].tolist() == [dict(zip(said[0].candidates, said[0].probs, strict=True))[c] for c in fitted.classes_]


def test_the_estimator_knows_classes_that_a_fold_lacks():
    stars = [{"low": 1, "medium": 2, "high": 3}[label] for label in LABELS]
    fitted = FewShotClassifier("scripted", recipe="bm25", shots=2, order=[5, 1, 2, 3]).fit(TEXTS, stars)
    assert fitted.classes_.tolist() == [1, 2, 3, 5]
    assert fitted.adapted_.labels == ("5", "1", "2", "3")
    assert set(fitted.predict(TEXTS[:4]).tolist()) <= {1, 2, 3, 5}


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            ["low", "high"],
            "the lowest first; 'medium' is not in ['low', 'high']",
        ),
        (["low", "medium", "high", "low"], "order must list two classes or more, each once"),
        ([1, 2, 3], "order must have the classes as y has them; it has 1, and y "),
        ("low<high", "order must be a list of the classes, the lowest first; got 'low<high'"),
        (["low", None], "order must list the classes, the lowest first: Each text must have a label"),
    ],
)
def test_an_order_that_cannot_be_is_refused(order, message):
    with pytest.raises(InvalidInputError) as caught:
        FewShotClassifier("scripted", recipe="bm25", order=order).fit(TEXTS, LABELS)
    assert message in str(caught.value)


def test_suites_score_rows_as_a_run_does():
    """By how near the answer is; context-ablation and twins take the same score."""
    rows = [Example(f"case {i}", label, f"c{i}") for i, label in enumerate(SEVERITY)]
    task = Task(
        "severity", "classification", (), tuple(rows), labels=SEVERITY, metrics=("quadratic_kappa",), ordered=True
    )
    said = [Prediction(e.id, SEVERITY, (0.0, 0.0, 0.0), (0.2, 0.6, 0.2), "medium") for e in rows] * 3
    suite = LetterCase()
    report = suite.report(task, suite.cases(task, rng=np.random.default_rng(0)), said)
    kept = [sample_row(task, "r", i, e, p)["score"] for i, (e, p) in enumerate(zip(rows, said[:3], strict=True))]
    assert list(report["as-given"]["score"].values) == kept == [0.5, 1.0, 0.5]
