"""The composer `series` and forecasts without a model: numbers there and back, bad rows, demonstrations that help."""

import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from math import isnan, log, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kshot
from conftest import write_task
from kshot.core.errors import UserError
from kshot.core.number_lists import NumberList, number_list
from kshot.core.types import Example, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.classifier import ClassifierLearner
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.measures.metrics import compute
from kshot.methods.classifiers.forecast import Forecast, forecast
from kshot.methods.composers.series import Scale, Series
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from kshot.testing.check_part import check_part

NUMBERS = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=1, max_size=12)
TASK = Task(
    "waves",
    "generation",
    tuple(Example(f"{i}, {i + 2}, {i + 4}", f"{i + 6}, {i + 8}", f"r{i}") for i in range(12)),
    tuple(Example(f"{i}, {i + 2}, {i + 4}", f"{i + 6}, {i + 8}", f"t{i}") for i in range(30, 34)),
    metrics=("smape_score",),
)


@given(NUMBERS, NUMBERS, st.integers(2, 6), st.sampled_from(["comma", "space"]), st.sampled_from(["yes", "no"]))
def test_what_is_said_is_heard_within_half_a_step(past, future, digits, between, spaced):
    composer = Series(digits=digits, between=between, spaced=spaced)
    question = Question(json.dumps(past), "q")
    answer = json.dumps(future)
    scale = composer._scale(question)
    heard = number_list(composer.heard(TASK, composer.said(TASK, answer, question), question))
    assert heard is not None
    if any(abs(scale.code(x)) >= 10 ** (2 * digits) for x in number_list(answer).exact):  # as it is
        assert composer.heard(TASK, composer.said(TASK, answer, question), question) == answer
        return
    assert len(heard.values) == len(future)
    last_place = 10.0**-heard.decimals
    assert np.abs(np.subtract(heard.values, future)).max() <= 0.501 * (scale.step + last_place) + 1e-6


@given(NUMBERS, st.integers(2, 9))
def test_a_window_has_a_fixed_width_and_room_on_both_sides(values, digits):
    scale = Scale.of(values, digits, decimals=12)
    codes = [scale.code(x) for x in values]
    assert min(codes) == 10**digits // 4
    assert max(codes) < 10**digits
    for x in values:
        assert abs(scale.value(scale.code(x)) - x) <= 0.5 * scale.step * (1 + 1e-6) + 1e-9 * abs(x)


def test_what_is_said():
    shown = Example("[1.5, null, 2.0]", "[2.5]", "a")
    script = Series().compose(TASK, [shown], Question("10, 20, 10, 20", "q"))
    assert [piece.text for piece in script.pieces] == ["250,?,255", "260", "250,260,250,260"]
    assert (script.given, script.wanted) == ("Past", "Future")
    wide = Series(digits=4, between="space").compose(TASK, (), Question("0 1000000", "q"))
    assert wide.pieces[0].text == "2500 7500"
    apart = Series(digits=2, spaced="yes").compose(TASK, (), Question("0, 5", "q"))
    assert apart.pieces[0].text == "2 5 , 3 0"


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("256,258", "16, 18"),
        (" 256 , 258,", "16, 18"),
        ("256,258,260,262", "16, 18"),  # as many as outputs have
        ("256", "16"),
        ("256,99999999,258", "16"),
        ("-4, 256", "-244, 16"),
        ("about 256", "about 256"),
        ("", ""),
        ("256,258\nPast: 1", "16, 18"),
        ("256.5", "256.5"),  # goes on within a number
        ("256, 2e4", "256, 2e4"),
        ("1" * 5000, "1" * 5000),
        ("0" * 5000 + "256", "16"),
        ("=300000", "300000"),
    ],
)
def test_what_a_model_writes_is_brought_back(text, heard):
    model = TaskModel.for_task(TASK, load_model("scripted"))
    composer = Series().fit(TASK.train, model=model, rng=np.random.default_rng(0))
    assert composer.heard(TASK, text, Question("10, 12, 14", "q")) == heard


def test_the_scale_of_the_task():
    model = TaskModel.for_task(TASK, load_model("tiny"))
    composer = Series(scale="task").fit(TASK.train, model=model, rng=np.random.default_rng(0))
    low, high = (composer.compose(TASK, (), Question(text, "q")).pieces[0].text for text in ("0, 1", "100, 101"))
    assert (low, high) == ("250,251", "350,351")
    assert composer.learns
    assert not Series().learns


def test_bits_are_those_of_the_numbers_that_were_given():
    """One digit less says ten times less of each number; what is left open is counted."""
    question = Question("0.000, 1.000", "q")
    three = log((2 + 2**-4) / 3)  # places, as both numbers of the window have
    assert Series(digits=6).unsaid(TASK, "0.500", question) == pytest.approx(-three)
    for digits in (2, 3):
        steps = 1 / (10**digits // 2) / 0.001
        found = Series(digits=digits).unsaid(TASK, "0.500, 0.700", question)
        assert found == pytest.approx(2 * (log(max(1, steps)) - three))
    rows = tuple(Example("0.000, 1.000", "0.500", f"r{i}") for i in range(3))
    task = replace(TASK, train=rows[:2], test=rows[2:])
    setup = Setup(task, TaskModel.for_task(task, ScriptedModel({"25,75": "50"})), 0)
    recipe = parse_recipe("zero-shot", shots=2).having(composer=Series(digits=2, spaced="no"))
    found = PromptLearner(recipe, setup).predict([Query(task.test[0], task.train, wants_text=True)])[0]
    assert found.answer == "0.500"
    assert -found.log_probs[0] / log(2) == pytest.approx(
        -log2(0.9) + log2(1 / 50 / 0.001) - log2((2 + (2 + 2**-4) / 3) / 3)
    )


PASTS = ["1, 2, 3, 4", "0.1, 0.25", "7", "1e17, 2e17", "1e-15, 2e-15", "100000000000000000, 100000000000000100"]


def numbers_around(past: str) -> list[str]:
    """Return all numbers with 0, 1 and 2 places, and of a few more, that are near a window's last."""
    last = number_list(past).exact[-1]
    steps = [Decimal(k).scaleb(-places) for places, n in enumerate((30, 60, 120)) for k in range(-n, n + 1)]
    fine = [Decimal(k).scaleb(-places) for places in (13, 16, 40) for k in range(-20, 21)]
    return sorted({f"{last + step:f}" for step in (*steps, *fine)})


@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("known", [(), ("5", "6", "5.1"), ("0.001",)])
def test_what_is_said_alike_is_paid_for(past, known):
    """The probabilities of all answers in the same words sum to 1 at most, whatever places they are written with."""
    pool = [Example("1, 2, 3", output, f"k{i}") for i, output in enumerate(known)]
    model = TaskModel.for_task(TASK, ScriptedModel())
    composer = Series(digits=2).fit(pool, model=model, rng=np.random.default_rng(0))
    question, total = Question(past, "q"), Counter[str]()
    for answer in numbers_around(past):
        total[composer.said(TASK, answer, question)] += np.exp(-composer.unsaid(TASK, answer, question))
    assert max(total.values()) <= 1 + 1e-9
    if (past, known) == ("1, 2, 3, 4", ()):
        assert max(total.values()) > 0.95


def test_lists_that_are_said_alike_are_paid_for():
    question, total = Question("1, 2", "q"), Counter[str]()
    numbers = [f"{k / 10:.1f}" for k in range(10, 40)] + [str(k) for k in range(1, 4)]
    for answer in (f"{a}, {b}" for a in numbers for b in numbers):
        total[Series().said(TASK, answer, question)] += np.exp(-Series().unsaid(TASK, answer, question))
    assert 0.5 < max(total.values()) <= 1 + 1e-9


@pytest.mark.parametrize("spaced", ["yes", "no"])
@pytest.mark.parametrize(
    ("past", "answer"),
    [("0.001, 0.002", "1e300"), ("1, 2", "1e400"), ("0.1, 0.2", "-300000"), ("1, 2", "5 apples"), ("1, 2", "=5"),
     ("1, 2", " =5"), ("1, 2", "3, null"), ("1, 2", "- 2 4 , 2 5"), ("1, 2", "1" * 50), ("0.1, 0.2", "0.1, 900000"),
     ("1, 2", "soon")],
)  # fmt: skip
def test_what_is_no_series_or_far_away_is_heard_as_itself(past, answer, spaced):
    composer, question = Series(spaced=spaced), Question(past, "q")
    assert composer.heard(TASK, composer.said(TASK, answer, question), question) == answer
    assert composer.unsaid(TASK, answer, question) == 0


def test_longer_words_for_answers_have_room():
    model = TaskModel.for_task(TASK, load_model("tiny"))
    wide = Series(digits=9)
    said = wide.said(TASK, TASK.train[0].output, TASK.train[0].question)
    assert model.with_room_for(wide).answer_tokens >= len(said) + 3
    assert model.with_room_for(wide).with_room_for(Series()).answer_tokens == model.with_room_for(wide).answer_tokens


@pytest.mark.parametrize("recipe", ["zero-shot:composer=series", "forecast"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("1, 2, three", "4"),
            r"The input of 'bad' must be a series of numbers; got '1, 2, three'\. Write numbers alone",
        ),
        (("up 3 from 2", "4"), r"The input of 'bad' must be a series of numbers"),
        (("null, null", "4"), r"The input of 'bad' must be a series of numbers; got 'null, null'"),
        (("1, inf", "4"), r"The input of 'bad' must be a series of numbers"),
        (("1, sNaN, 3", "4"), r"The input of 'bad' must be a series of numbers; got '1, sNaN, 3'"),
        (("-1e308, 1e308", "4"), r"The input of 'bad' must be a series of numbers; .* none beyond 1e100"),
        (("1, 1e-320", "4"), r"The input of 'bad' must be a series of numbers"),
        (("1, 2", "-1e101"), r"The output of 'bad' must be numbers without gaps; .* none beyond 1e100"),
        (("1, 2", "null"), r"The output of 'bad' must be numbers without gaps; got 'null'"),
        (("1, 2", "soon"), r"The output of 'bad' must be numbers without gaps; got 'soon'"),
        (("1, 2", "3, NaN"), r"The output of 'bad' must be numbers without gaps; got '3, NaN'"),
    ],
)
def test_rows_that_are_no_series_are_refused_before_a_model_is_loaded(recipe, row, message):
    rows = (*TASK.train, Example(*row, "bad"))
    with pytest.raises(UserError, match=message):
        kshot.adapt(replace(TASK, train=rows, metrics=("exact_match",)), "no-such-model", recipes=recipe)


def test_a_trend_has_no_season():
    assert forecast([1, 2, 3, 4, 5, 6], 2, "seasonal").tolist() == [6.0, 6.0]
    assert forecast([1, 5, 9, 1, 5, 9, 1], 2, "seasonal").tolist() == [5.0, 9.0]


def test_a_row_that_is_no_series_takes_out_its_recipes_alone():
    rows = (*TASK.train, Example("tomorrow", "4", "bad"))
    names = ["zero-shot", "forecast", "zero-shot:composer=notes(inner=series)"]
    run = kshot.adapt(replace(TASK, train=rows, metrics=("exact_match",)), "scripted", recipes=names)
    status = {row["recipe"]: (row["status"], row["reason"]) for row in run.leaderboard}
    assert status["zero-shot"][0] == "done"
    for name in names[1:]:
        assert status[name][0] == "not-applicable"
        assert status[name][1].startswith("The input of 'bad' must be a series of numbers; got 'tomorrow'.")


def test_series_of_any_length_with_gaps_and_single_numbers_are_read():
    rows = (Example("[1, null, 3, 4]", "5", "a"), Example("7", "7", "b"), Example("1; 2.5;", "3, 4, 5", "c"),
            Example("1\n2\n3", "4", "d"), Example("5 5 5 5", "5", "e"), Example("-1e3, 2E-2", "0", "f"))  # fmt: skip
    task = replace(TASK, train=rows, test=rows[:2])
    for recipe in ("random:k=2,composer=series", "forecast:method=naive/drift/seasonal"):
        assert kshot.adapt(task, "tiny", recipes=recipe, shots=2).best.predict(["1, ?, 3"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", (1, 2)),
        ("[ 1.50 , -2e1 ]", (1.5, -20)),
        ("1 null NaN 2", (1, None, None, 2)),
        ("1, , 2", (1, None, 2)),
        ("3", (3,)),
        ("", None),
        ("[]", None),
        ("1 to 2", None),
        ("1e999", None),
        ("1e999999999999", None),
        ("1e-99999999", None),
        ("sNaN", None),
        ("-1e100, 1e-100", (-1e100, 1e-100)),
        ("1.1e100", None),
        ("[1, [2]]", None),
        ("1, 2)", None),
    ],
)
def test_lists_of_numbers(text, values):
    found = number_list(text)
    assert (found and tuple(None if isnan(v) else v for v in found.values)) == values


def test_a_written_list_has_the_form_of_the_one_before():
    assert number_list("[1.25, 2]").written([3, 4.5], decimals=1) == "[3.0, 4.5]"
    assert number_list("1;2").written([3, 4], decimals=0) == "3;4"
    assert number_list("1.25, 2") == NumberList((1.25, 2.0), 2, False, ", ")


def test_contracts():
    for part in (Series(digits=2, between="space"), Series(scale="task", spaced="yes"), Forecast("seasonal")):
        check_part(part)


def test_it_is_adapted_saved_loaded_and_not_exported(tmp_path, run_cli):
    rows = [{"input": e.input, "output": e.output} for e in TASK.train]
    card = {"kind": "generation", "metrics": ["smape_score"]}
    folder = write_task(tmp_path / "task", rows, rows[:2], card)
    run_cli("adapt", folder, "--model", "tiny", "--recipes", "random:k=2,composer=series(digits=2/3)", "--limit", 8,
            "--out", tmp_path / "run")  # fmt: skip
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"input": "10, 12, 14"}\n')
    told = run_cli("predict", tmp_path / "run", asked)
    assert told.code == 0, told.err
    refused = run_cli("export", tmp_path / "run", "--to", "prompt", "--out", tmp_path / "out")
    assert "needs a prompt with a place for any question" in refused.err
    asked.write_text('{"input": "tomorrow"}\n')
    bad = run_cli("predict", tmp_path / "run", asked)
    assert bad.code == 2
    assert "must be a series of numbers; got 'tomorrow'" in bad.err


# Forecasts


@pytest.mark.parametrize(
    ("values", "method", "season", "found"),
    [
        ([1, 2, 4], "naive", 0, [4, 4, 4]),
        ([1, 2, 4], "drift", 0, [5.5, 7, 8.5]),
        ([1], "drift", 0, [1, 1, 1]),
        ([1, 2, 3, 1, 2, 3], "seasonal", 0, [1, 2, 3]),
        ([1, 2, 3, 4], "seasonal", 2, [3, 4, 3]),
        ([1, 2], "seasonal", 5, [2, 2, 2]),
        ([7], "seasonal", 0, [7, 7, 7]),
    ],
)
def test_forecasts(values, method, season, found):
    assert forecast(values, 3, method, season=season).tolist() == found


@pytest.mark.parametrize("past", [*PASTS, "-1e100, 1e100"])
@pytest.mark.parametrize("known", [(), ("5", "6", "5.1"), ("0.001",)])
def test_probabilities_of_numbers_sum_to_one_at_most(past, known):
    pool = [Example("1, 2, 3", output, f"k{i}") for i, output in enumerate(known)]
    fitted = Forecast().fit(TASK, pool, rng=np.random.default_rng(0))
    total = sum(np.exp(fitted.log_prob(Question(past, "q"), answer)) for answer in numbers_around(past))
    assert total <= (len(known) + 0.5) / (len(known) + 1) + 1e-9


def test_probabilities_of_lists_sum_to_one_at_most():
    fitted, question = Forecast().fit(TASK, (), rng=np.random.default_rng(0)), Question("1, 2, 3, 4", "q")
    one = [np.exp(fitted.log_prob(question, str(y))) for y in range(-40, 50)]
    two = [np.exp(fitted.log_prob(question, f"{y}, {z}")) for y in range(-10, 18) for z in range(-10, 18)]
    share = (4 + 1 / 2) / 5  # of numbers without places
    assert sum(one) == pytest.approx(1 / 2 * share, abs=1e-3)
    assert sum(two) == pytest.approx(1 / 4 * share**2, abs=1e-3)
    assert fitted.log_prob(question, ", ".join("4" * 2000)) > -1e4  # of any length


@pytest.mark.parametrize("method", ["naive", "drift", "seasonal"])
def test_the_largest_and_smallest_numbers_have_bits(method):
    for past, output in (("-1e100, 1e100", "1e-100"), ("1e-100, 2e-100", "-1e100"), ("1e100, 1e100", "5")):
        question, pool = Question(past, "q"), [Example(past, output, "a")]
        fitted = Forecast(method).fit(TASK, pool, rng=np.random.default_rng(0))
        for answer in (output, "1e-50", "3"):
            assert -2000 < fitted.log_prob(question, answer) < 0
        assert number_list(fitted.written(question))
        assert Series().heard(TASK, Series().said(TASK, output, question), question)


def test_probabilities_of_a_forecast_sum_to_one():
    fitted = Forecast().fit(TASK, TASK.train, rng=np.random.default_rng(0))
    one = replace(TASK, train=tuple(replace(e, output=e.output.split(",")[0]) for e in TASK.train))
    single = Forecast().fit(one, one.train, rng=np.random.default_rng(0))
    question = Question("1, 3, 5", "q")
    total = sum(np.exp(single.log_prob(question, str(y))) for y in range(-500, 500))
    without_places = (12 + (3 + 1 / 2) / 4) / 13
    assert total == pytest.approx((12 + 1 / 2) / 13 * without_places, abs=1e-3)
    assert fitted.log_prob(question, "7, 9") > fitted.log_prob(question, "70, 90") > -1e4
    assert fitted.written(question) == "5, 5"
    assert Forecast("drift").fit(TASK, TASK.train, rng=np.random.default_rng(0)).written(question) == "7, 9"


def test_forecasts_race_and_answer():
    setup = Setup(TASK, None, 0)
    learner = ClassifierLearner(parse_recipe("forecast:method=drift", shots=1), setup)
    found = learner.predict([Query(e, TASK.train, wants_text=True) for e in TASK.test])
    assert [p.answer for p in found] == [e.output for e in TASK.test]
    assert compute("smape_score", [[e.output] for e in TASK.test], [str(p.answer) for p in found], labels=()) == 1
    run = kshot.adapt(TASK, "scripted", recipes="forecast:method=naive/drift/seasonal,zero-shot:composer=series")
    assert run.best.predict(["100, 102, 104"]) == ["106, 108"]
    assert not Forecast().suits(replace(TASK, kind="classification", labels=("a", "b")))


@pytest.mark.parametrize(
    ("wanted", "answer", "score"),
    [("1, 2", "1, 2", 1), ("1", "3", 0.5), ("0", "0.0", 1), ("1", "-1", 0), ("1, 2", "1", 0.5), ("1", "1, 2", 0.5),
     ("1", "one", 0), ("4", "12 ", 0.5)],
)  # fmt: skip
def test_smape_score(wanted, answer, score):
    assert compute("smape_score", [[wanted]], [answer], labels=()) == pytest.approx(score)


# A language model that reads waves


def waves(rng: np.random.Generator, name: str, period: int) -> list[Example]:
    """Return three windows of waves with one period, 2 or 4, whose first two values do not tell which it is."""
    rows = []
    for i in range(3):
        steps = np.arange(6) + int(rng.integers(2)) * period // 2
        angle = 2 * np.pi * (steps - (0.5 if period == 4 else 0.25)) / period
        x = rng.uniform(-50, 50) + rng.uniform(5, 20) * np.sin(angle)
        text = [f"{value:.1f}" for value in x]
        rows.append(Example(", ".join(text[:2]), ", ".join(text[2:]), f"{name}-{i}"))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_demonstrations_of_the_same_period_lower_the_error(seed):
    model = kshot.load_model("demo")
    asking = replace(TaskModel.for_task(replace(TASK, train=()), model), answer_tokens=24)
    reading = replace(asking, composer=Series(digits=2).fit((), model=asking, rng=np.random.default_rng(0)))
    held = [waves(np.random.default_rng(1000 * seed + i), f"e{i}", (2, 4)[i % 2]) for i in range(32)]
    errors = []
    for k in (0, 2):
        found = reading.generate([reading.prompt(rows[:k], rows[2])[0] for rows in held])
        told = [reading.heard(text.text.strip(), rows[2]) for text, rows in zip(found, held, strict=True)]
        errors.append(np.mean([_error(rows[2], text) for rows, text in zip(held, told, strict=True)]))
    print(np.round(errors, 3))
    assert errors[1] < 0.7 * errors[0]


def _error(example: Example, text: str) -> float:
    """Return the mean error in spans of the past; what was not written is its mean."""
    past, wanted, found = (number_list(t) for t in (example.input, example.output, text))
    values = [*(found.values if found else ()), *[float(np.mean(past.values))] * 4][:4]
    return float(np.abs(np.subtract(wanted.values, values)).mean() / (max(past.values) - min(past.values)))
