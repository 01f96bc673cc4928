"""A model that may be unsure keeps its promise: what is tried, what is said, and where it is used."""

import copy
import json
from math import comb

import numpy as np
import pytest

import kshot
from conftest import labelled_rows, write_task
from kshot.adapted.model import AdaptedModel
from kshot.adapted.seal import write_seal
from kshot.bench.simulated_abstention import CHOSEN_FROM, SHAPES, SIZES, measure, simulated
from kshot.core.errors import UserError
from kshot.measures.abstention import LEVEL, PastAnswers, least_answers, most_wrong, promised
from kshot.models.scripted import ScriptedModel
from test_old_formats import SEALED

GRADED = '''
from dataclasses import dataclass, replace
import numpy as np
import kshot

@dataclass(frozen=True)
class Graded(kshot.Classifier):
    """Knows the answer from the number in the input, and is as sure as another number says."""

    def fit(self, task, examples, *, rng):
        return self

    def probabilities(self, questions):
        numbers = [(int(q.input.split()[1]), int(q.input.split()[3]) / 100) for q in questions]
        return [np.array([1 - sure, sure] if n % 2 else [sure, 1 - sure]) for n, sure in numbers]
'''


def graded_rows(n: int, start: int = 0) -> list[dict[str, str]]:
    """Rows whose surer answers are right, and of the others every third is wrong."""
    rows = []
    for i in range(start, start + n):
        sure = 51 + i * 37 % 47
        is_right = sure > 70 or i % 3 != 0
        rows.append({"input": f"number {i} sure {sure}", "output": "even" if (i % 2 == 0) == is_right else "odd"})
    return rows


def past_of(pattern: str, n_alike: int = 1) -> PastAnswers:
    """Return answers by falling confidence: "1" right, "0" wrong."""
    return PastAnswers.of(((1 - i / 1000, sign == "1") for i, sign in enumerate(pattern)), n_alike)


# What is promised


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.9, 0.95])
def test_the_allowed_mistakes_are_those_of_a_binomial_test(precision):
    def at_most(c, n):
        return sum(comb(n, i) * (1 - precision) ** i * precision ** (n - i) for i in range(c + 1))

    counts = [1, 2, 5, 28, 29, 46, 59, 100]
    exact, halved = most_wrong(counts, precision, LEVEL), most_wrong(counts, precision, LEVEL, at_limit=0.5)
    for n, c, mid in zip(counts, exact, halved, strict=True):
        assert c < 0 or at_most(c, n) <= LEVEL
        assert at_most(c + 1, n) > LEVEL
        assert mid < 0 or (at_most(mid, n) + at_most(mid - 1, n)) / 2 <= LEVEL
        assert (at_most(mid + 1, n) + at_most(mid, n)) / 2 > LEVEL
    least = least_answers(precision)
    assert precision**least <= LEVEL < precision ** (least - 1)


def test_so_many_right_answers_in_a_row_are_enough():
    assert past_of("1" * 28).abstention(0.9).threshold is None
    assert past_of("1" * 29).abstention(0.9).threshold == 0
    assert past_of("1" * 28 + "0").abstention(0.9).threshold is None


def test_answers_go_on_until_one_mistake_more():
    found = past_of("1" * 40 + "0" + "1" * 5 + "00" + "1" * 52 + "0" * 200)
    kept = found.abstention(0.9)
    assert found.answered(kept) == (46, 45)  # of 46, one may be wrong; at 61 there would be three, not two
    assert found.share(kept)[0] == 46 / 300


def test_one_early_mistake_does_not_end_the_search():
    found = past_of("110" + "1" * 97)
    assert found.abstention(0.9).threshold is None  # of the first 29 none may be wrong
    longer = past_of("110" + "1" * 297)  # begins at 46, of which one may be
    assert longer.answered(longer.abstention(0.9)) == (300, 299)


def test_equal_confidences_are_all_answered_or_none():
    answers = [(0.9, True)] * 40 + [(0.9 - 1e-9, False)] * 2 + [(0.6, False)] * 10
    assert PastAnswers.of(answers[:40]).abstention(0.9).threshold == 0
    assert PastAnswers.of(answers).abstention(0.9).threshold is None  # 2 of 42 are wrong, and none of them is apart
    apart = PastAnswers.of([(0.9, True)] * 40 + [(0.8, False)] * 2)
    assert apart.abstention(0.9).threshold == pytest.approx(0.85)


def test_the_order_of_answers_says_nothing():
    rng = np.random.default_rng(0)
    answers = [(float(sure), bool(rng.random() < sure)) for sure in rng.uniform(0.5, 1, 200).round(2)]
    thresholds = {PastAnswers.of([answers[i] for i in rng.permutation(200)]).abstention(0.8) for _ in range(5)}
    assert len(thresholds) == 1
    assert next(iter(thresholds)).threshold is not None


def test_recipes_that_are_alike_make_it_stricter():
    alone, among = past_of("1" * 38), past_of("1" * 38, n_alike=9)
    assert alone.abstention(0.9).threshold == 0
    assert among.abstention(0.9).threshold is None  # at 5 % / 3 there must be 39
    assert least_answers(0.9, among.level) == 39


def test_the_promise_is_kept_in_simulations():
    """A sample; `test_the_promise_is_kept_in_2000_simulations` has all."""
    found = measure("four labels, 0.75", 0.9, 300, runs=60)
    assert 0.85 <= found["kept"] <= 1
    assert 0.25 < found["answered"] < found["possible"] < 0.6
    assert found["share_held"] > 0.88


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("precision", "n"), SIZES)
def test_the_promise_is_kept_in_2000_simulations(shape, precision, n):
    found = measure(shape, precision, n, runs=2000)
    assert 0.93 <= found["kept"] <= 0.97
    assert 0.93 <= found["share_held"] <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_recipes", CHOSEN_FROM)
def test_the_promise_is_kept_by_the_best_of_equal_recipes(shape, n_recipes):
    assert 0.93 <= measure(shape, 0.9, 300, runs=2000, n_recipes=n_recipes)["kept"] <= 0.975


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "n", "most"), [(0.8, 200, 0.05), (0.9, 300, 0.05), (0.95, 300, 0.065), (0.98, 400, 0.075)]
)
def test_no_shape_breaks_the_promise_much_more_often(precision, n, most):
    """By calculation: `above` answers have the precision, the surest of them certain, all others one probability."""
    steps = past_of("1" * n)._steps(precision)
    worst = 0.0
    for above in range(10, n - 40, 2):
        for certain in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9):
            k = int(certain * above)
            low = 1 - (1 - precision) * above / (above - k)
            if low >= 0:
                right = np.r_[np.ones(k), np.full(above - k, low), np.full(n - above, min(low, precision - 1e-6))]
                worst = max(worst, _probability_of_more(right, above, steps))
    assert 0.03 < worst <= most


def _probability_of_more(right, above, steps) -> float:
    """The probability that more than `above` are answered, where the i-th surest is right with `right[i]`."""
    reach = [(i + 1, c) for i, c in steps]
    wrong_by = np.zeros(max(c for _, c in reach) + 3)  # of each number of mistakes, while every test has passed
    wrong_by[0] = 1.0
    passed = None
    for m, p in enumerate(right[: above + 1], 1):
        wrong_by[1:] = wrong_by[1:] * p + wrong_by[:-1] * (1 - p)
        wrong_by[0] *= p
        if allowed := [c for at, c in reach if at == m and m <= above]:
            passed = allowed[0]
            wrong_by[passed + 1 :] = 0
    following = next(((at, c) for at, c in reach if at > above), None)
    if passed is None:  # nothing is true from the first test on
        at, c = reach[0]
        for p in right[above + 1 : at]:
            wrong_by[1:] = wrong_by[1:] * p + wrong_by[:-1] * (1 - p)
            wrong_by[0] *= p
        return float(wrong_by[: c + 1].sum())
    found = wrong_by[: passed + 1].sum()
    if following:
        at, c = following
        found += wrong_by[passed + 1 : c + 1].sum() * np.prod(right[above + 1 : at])
    return float(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Fixed sequence testing", "ignore:No predict parameters")
def test_mapie_promises_the_same_and_answers_less():
    """Its Learn then Test, with the same fixed sequence, on the same answers."""
    control = pytest.importorskip("mapie.risk_control")
    rng, ours, theirs = np.random.default_rng(1), [], []
    for _ in range(30):
        quantiles, right = (table[:, 0] for table in simulated("sure or lost, 0.64", 300, 1, rng))
        sure = 1 - quantiles
        past = PastAnswers.of((float(s), bool(r)) for s, r in zip(sure, right, strict=True))
        ours.append(past.share(past.abstention(0.9))[0])
        controller = control.BinaryClassificationController(
            predict_function=lambda x: np.c_[1 - x[:, 0], x[:, 0]],
            risk="precision",
            target_level=0.9,
            confidence_level=0.95,
            list_predict_params=np.quantile(sure, np.linspace(0.9, 0.1, 17)),
            fwer_method="fixed_sequence",
        )
        controller.calibrate(sure[:, None], right.astype(int))
        found = controller.best_predict_param
        theirs.append(0.0 if found is None else float(np.mean(sure >= found)))
        if found is not None:  # what it allows passes our test too
            n, wrong = int(np.sum(sure >= found)), int(np.sum(right[sure >= found] == 0))
            assert wrong <= most_wrong([n], 0.9, LEVEL)[0]
    assert np.mean(theirs) > 0.1
    assert np.mean(ours) > np.mean(theirs)


# What cannot be promised


def test_too_few_examples_promise_nothing(words_task, run_cli, tmp_path):
    write_task(tmp_path / "dozen", labelled_rows(12))
    said = run_cli("adapt", tmp_path / "dozen", "--model", "scripted", "--abstain", 0.95, "--out", tmp_path / "run")
    assert said.code == 2
    assert said.err.endswith(
        "error: --abstain 0.95 needs at least 59 examples, each answered before it is learnt, all of them rightly; got "
        "12, too few to promise anything above 0.77. Give more examples, or a lower --abstain.\n"
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="--abstain 0.95 needs at least 59 examples.* got 24, too few"):
        kshot.adapt(words_task, "scripted", abstain=0.95)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            1.5,
            "--abstain must be a number between 0 and 1, the share of answers that have to be right; got 1.5. Give one",
        ),
        (-0.1, "--abstain must be a number between 0 and 1, the share of answers that have to be right; got -0.1."),
        (
            float("nan"),
            "--abstain must be a number between 0 and 1, the share of answers that have to be right; got nan",
        ),
        (1, "--abstain must be below 1, as no number of examples shows that an answer is never wrong; got 1. Give one"),
        (
            0,
            "--abstain must be above 0, as answers that may all be wrong need no threshold; got 0. Give one such",
        ),
        ("0.9", "--abstain must be a number between 0 and 1, the share of answers that have to be right; got 0.9."),
    ],
)
def test_a_precision_lies_between_0_and_1(value, message, graded):
    with pytest.raises(UserError) as of_run:
        kshot.adapt("words", "scripted", abstain=value)
    with pytest.raises(UserError) as of_model:
        graded.best.abstaining(value)
    assert str(of_run.value).startswith(message)
    assert str(of_model.value) == str(of_run.value)


def test_answers_that_are_written_have_no_confidence(tmp_path):
    rows = [{"input": f"say {i}", "output": f"it is {i}"} for i in range(80)]
    task = kshot.Task.load(write_task(tmp_path / "say", rows, card={"kind": "generation"}))
    with pytest.raises(UserError) as error:
        kshot.adapt(task, "scripted", abstain=0.9)
    assert str(error.value) == (
        "--abstain needs a task with labels or choices, whose answers have probabilities; 'say' is of the kind "
        "generation, whose answers are written. Leave --abstain out."
    )


def test_no_label_is_called_unsure(tmp_path):
    rows = [{"input": f"row {i}", "output": ("sure", "unsure")[i % 2]} for i in range(40)]
    with pytest.raises(UserError) as error:
        kshot.adapt(write_task(tmp_path / "moods", rows), "scripted", abstain=0.9)
    assert str(error.value) == (
        "--abstain says 'unsure' where it gives no answer; 'moods' has a label 'unsure'. Rename the label, or leave "
        "--abstain out."
    )


def test_what_cannot_be_promised_says_what_can():
    with pytest.raises(UserError) as error:
        promised(past_of("1" * 30 + "01" * 35), 0.95)
    assert str(error.value) == (
        "--abstain 0.95 cannot be promised: each example was answered before its label was learnt, 65 of 100 rightly; "
        "of the 59 answers that it was surest of, none may be wrong, and 15 were. Give --abstain 0.9, which can."
    )
    for wanted in (0.9, 0.3):
        with pytest.raises(UserError, match=r"were\. Give more examples, as nothing lower can either\.$"):
            promised(past_of("0" * 100), wanted)
    with pytest.raises(UserError, match=r"none may be wrong, and 1 was\. Give --abstain 0\.\d+, which can\.$"):
        promised(past_of("110" + "10" * 8), 0.3)  # below a half too
    with pytest.raises(UserError, match="--abstain 0.9 needs at least 39 examples.* got 30, too few"):
        promised(past_of("1" * 30, n_alike=9), 0.9)


def test_a_model_of_an_older_format_has_no_past(run_cli):
    said = run_cli("predict", SEALED / "bm25", SEALED / "inputs.txt", "--abstain", 0.9)
    assert said.code == 2
    assert said.err == (
        "error: --abstain needs the answers that a model gave while it was chosen; this one has none, as those that an "
        "older kshot has saved. Adapt again.\n"
    )


def test_a_suite_looks_at_all_answers(run_cli, graded):
    said = run_cli("evaluate", graded.folder, "words", "--suite", "letter-case", "--abstain", 0.9)
    assert (
        said.err == "error: --abstain must come without --suite, which looks at all answers; leave one of them out.\n"
    )


# How it is used


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    (folder / "mine.py").write_text(GRADED)
    write_task(folder / "numbers", graded_rows(120), graded_rows(60, start=1000))
    return folder


@pytest.fixture(scope="module")
def graded(place):
    """A run whose model answers what it is sure of."""
    how = {"recipes": f"{place}/mine.py:Graded", "abstain": 0.9, "out": place / "run"}
    return kshot.adapt(place / "numbers", ScriptedModel(), **how)


def test_a_run_tells_what_is_answered(graded):
    told = graded.to_json()["abstention"]
    assert (told["n"], told["n_right"], told["n_alike"], told["wanted"]) == (120, 102, 1, 0.9)
    (row,) = (row for row in told["shares"] if row["precision"] == 0.9)
    assert row["threshold"] == graded.best.abstention.threshold
    assert 0.5 < row["low"] < row["share"] < row["high"] < 1
    assert row["share"] == row["n_answered"] / 120
    said = (
        f"With --abstain 0.9 it answers {100 * row['share']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})"
    )
    assert told["in_words"].startswith(f"{said} of queries, those where its answer has a probability of 0.")
    assert told["in_words"].endswith(
        'or more, and is "unsure" of the others. At least 90 % of its answers are right: that holds with a probability '
        "of 95 %, as long as inputs are like the examples."
    )


def test_a_model_is_unsure_below_its_threshold(graded, place):
    inputs = [row["input"] for row in graded_rows(60, start=1000)]
    predictions, answers = graded.best.predictions(inputs), graded.best.predict(inputs)
    for p, answer in zip(predictions, answers, strict=True):
        assert graded.best.is_unsure(p) == (max(p.probs) < graded.best.abstention.threshold)
        assert answer == ("unsure" if graded.best.is_unsure(p) else p.answer)
    assert 0 < answers.count("unsure") < 60
    stricter = graded.best.abstaining(0.95)
    assert stricter.abstention.threshold > graded.best.abstention.threshold
    assert stricter.predict(inputs).count("unsure") > answers.count("unsure")
    assert graded.best.predict(inputs) == answers  # it stays as it was


def test_a_saved_model_is_as_unsure(graded, tmp_path):
    graded.best.save(tmp_path / "model")
    again = kshot.load(tmp_path / "model", allow_code=True)
    assert (again.past, again.abstention) == (graded.best.past, graded.best.abstention)
    assert again.abstaining(0.8).abstention == graded.best.abstaining(0.8).abstention
    assert again.with_model(ScriptedModel()).abstention == again.abstention
    assert copy.deepcopy(AdaptedModel(again.fitted, choice={}, past=again.past)).past == again.past


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"past": None}, "must have past answers where it says when it is unsure; it is otherwise."),
        ({"past": {"confidences": [0.9], "right": [], "n_alike": 1}}, "must have a confidence for each past answer;"),
        ({"past": {"confidences": [1.5], "right": [True], "n_alike": 1}}, "past.confidences.0"),
        ({"past": {"confidences": [], "right": [], "n_alike": 0}}, "past.n_alike"),
        ({"abstention": {"precision": 1.0, "threshold": 0.5}}, "abstention.precision"),
        ({"abstention": {"precision": 0.9, "threshold": -1}}, "abstention.threshold"),
    ],
)
def test_a_changed_record_is_refused(graded, tmp_path, change, message):
    graded.best.save(tmp_path / "model")
    file = tmp_path / "model" / "kshot.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    write_seal(tmp_path / "model")
    with pytest.raises(UserError) as error:
        kshot.load(tmp_path / "model", allow_code=True)
    assert message in str(error.value)
    assert str(error.value).endswith("Copy the whole folder, or adapt again.")


def test_predict_says_unsure(run_cli, graded, place):
    plain = run_cli("predict", graded.folder, place / "numbers" / "test.jsonl", "--allow-code").out.splitlines()
    rows = run_cli("predict", graded.folder, place / "numbers" / "test.jsonl", "--allow-code", "--json").json
    unsure = [row["unsure"] for row in rows["predictions"]]
    assert [row["answer"] in ("even", "odd") for row in rows["predictions"]] == [True] * 60
    assert [answer == "unsure" for answer in plain] == unsure
    stricter = run_cli("predict", graded.folder, place / "numbers" / "test.jsonl", "--allow-code", "--abstain", 0.95)
    assert stricter.out.count("unsure") > sum(unsure) > 0


def test_evaluate_tells_precision_and_share(run_cli, graded, place):
    found = graded.best.evaluate(kshot.Task.load(place / "numbers"))
    told = found["abstention"]
    assert (told["wanted"], found["n"]) == (0.9, 60)
    share, low, high = told["share"]
    assert low < share == told["n_answered"] / 60 < high
    assert told["precision"][0] > found["metric"]
    text = run_cli("evaluate", graded.folder, place / "numbers", "--allow-code").out.splitlines()
    numbers = [f"{100 * v:.1f}" for v in (*told["share"], *told["precision"])]
    assert text[1:] == [
        "answered {} % ({} - {}) of the rows; of these answers {} % ({} - {}) are right, 90 % were wanted".format(
            *numbers
        )
    ]
    asked = run_cli("evaluate", graded.folder, place / "numbers", "--allow-code", "--abstain", 0.8, "--json").json
    assert asked["abstention"]["share"][0] > share


def test_the_report_shows_what_can_be_promised(graded):
    page = (graded.folder / "report.html").read_text("utf-8")
    section = page[page.index('<section id="abstaining">') : page.index('<section id="demonstrations">')]
    assert "With --abstain 0.9 it answers" in section
    assert section.count("<tr") == 1 + 5
    assert "cannot be promised" in section  # 0.99 by 120 answers


def test_a_run_that_cannot_promise_is_unsure_of_everything(place, run_cli, tmp_path):
    rows = [row | {"output": ("even", "odd")[i % 2]} for i, row in enumerate(graded_rows(60))]
    rows = [
        row | {"input": row["input"].replace(f"number {i}", f"number {7 * i % 5 + i // 9}")}
        for i, row in enumerate(rows)
    ]
    write_task(tmp_path / "noise", rows)
    done = run_cli("adapt", tmp_path / "noise", "--model", "scripted", "--recipes", f"{place}/mine.py:Graded",
                   "--abstain", 0.9, "--out", tmp_path / "run")  # fmt: skip
    assert "--abstain 0.9 cannot be promised by " in done.out.replace("\n", " ")
    assert 'so it is "unsure" of everything; ' in done.out.replace("\n", " ")
    answers = run_cli("predict", tmp_path / "run", tmp_path / "noise" / "train.jsonl", "--allow-code").out.splitlines()
    assert set(answers) == {"unsure"}
    measured = run_cli("evaluate", tmp_path / "run", tmp_path / "noise" / "train.jsonl", "--allow-code").out
    assert "unsure of all " in measured


def test_without_a_wish_everything_is_answered(words_task, tmp_path):
    done = kshot.adapt(words_task, "scripted", recipes="majority,zero-shot", out=tmp_path / "run")
    assert done.abstention["in_words"] == ""
    assert done.abstention["n_alike"] in (1, 2)
    assert done.best.abstention is None
    assert "abstention" not in done.best.evaluate(kshot.Task.load(words_task))
