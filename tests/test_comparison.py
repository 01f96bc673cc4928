"""Intervals of paired differences hold what they promise, and the choice is put in words."""

import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from kshot.core.types import Task
from kshot.measures.comparison import bits_difference, compared, score_difference, trend
from kshot.race.ranking import Evidence
from kshot.race.words import compare_all, in_words

N_SIMULATIONS = 2000
TASK = Task("t", "classification", (), labels=("a", "b"))


def coverage(simulate, truth: float) -> float:
    """The share of simulated intervals that contain the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(N_SIMULATIONS):
        low, high = simulate(rng)
        held += low <= truth <= high
    return held / N_SIMULATIONS


def paired_answers(rng, n: int, ours: float, theirs: float, same: float):
    """Two recipes that agree more often than chance: with probability `same` one draw decides for both."""
    first = rng.random(n)
    second = np.where(rng.random(n) < same, first, rng.random(n))
    return (first < ours).astype(float), (second < theirs).astype(float)


@pytest.mark.parametrize("n", [50, 100, 300])
@pytest.mark.parametrize(
    ("ours", "theirs", "same"), [(0.6, 0.6, 0.7), (0.7, 0.6, 0.5), (0.9, 0.85, 0.8), (0.5, 0.3, 0.2)]
)
def test_intervals_of_score_differences_cover(n, ours, theirs, same):
    def simulate(rng):
        gap = score_difference(*paired_answers(rng, n, ours, theirs, same))
        return gap.low, gap.high

    assert 0.93 <= coverage(simulate, ours - theirs) <= 0.97


@pytest.mark.parametrize("n", [20, 100, 300])
def test_intervals_of_bit_differences_cover(n):
    def simulate(rng):
        shared = rng.exponential(1.0, n)  # what makes a row hard for both
        gap = bits_difference(shared + rng.exponential(1.0, n), shared + rng.exponential(1.2, n))
        return gap.low, gap.high

    assert 0.93 <= coverage(simulate, -0.2) <= 0.97


@pytest.mark.parametrize("n", [50, 100, 300])
@pytest.mark.parametrize("kind", ["scores", "bits"])
def test_intervals_of_trends_cover(n, kind):
    known = np.log(np.arange(1, n + 1))

    def simulate(rng):
        if kind == "scores":
            return trend((rng.random(n) < 0.35 + 0.07 * known).astype(float), range(n))[1:]
        return trend(rng.exponential(2 - 0.2 * known), range(n))[1:]

    assert 0.9 <= coverage(simulate, {"scores": 0.07, "bits": -0.2}[kind]) <= 0.97  # few skewed values: a little short


@pytest.mark.parametrize("n", [40, 100])
def test_what_does_not_learn_is_rarely_said_to(n):
    """The words ask whether the interval's upper end is below 0: 2.5 % of flat streams."""
    rng = np.random.default_rng(3)
    assert np.mean([trend(rng.exponential(1.0, n), range(n))[2] < 0 for _ in range(N_SIMULATIONS)]) < 0.05
    values = 3 - 0.5 * np.log(np.arange(1, n + 1))
    assert trend(values.tolist(), range(n)) == pytest.approx((-0.5, -0.5, -0.5))
    assert trend(values[9::10].tolist(), range(9, n, 10)) == pytest.approx((-0.5, -0.5, -0.5))


def test_recipes_that_agree_on_every_row_are_not_certainly_equal():
    gap = score_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert gap.mean == 0
    assert gap.low < -0.3 < 0.3 < gap.high
    assert not gap.is_clear


def test_few_rows_give_no_interval_of_bits():
    assert bits_difference([], []).n == 0
    one = bits_difference([1.0], [3.0])
    assert (one.mean, one.low, one.high) == (-2.0, -np.inf, np.inf)


def rows(scores, bits, ids=None):
    ids = ids or [f"e{i}" for i in range(len(bits))]
    values = enumerate(zip(ids, scores, bits, strict=True))
    return [{"example_id": i, "position": at, "score": s, "bits": b} for at, (i, s, b) in values]


def test_only_rows_that_both_have_are_compared():
    ours = rows([1, 0, None], [1.0, 2.0, 3.0], ["a", "b", "c"])
    theirs = rows([0, 1, 1], [5.0, 4.0, 9.0], ["c", "b", "a"])
    gaps = compared(ours, theirs)
    assert gaps["score"].n == 2
    assert gaps["score"].mean == pytest.approx(((1 - 1) + (0 - 1)) / 2)
    assert gaps["bits"].mean == pytest.approx(((1 - 9) + (2 - 4) + (3 - 5)) / 3)


def board(**found):
    """Return rows of a leaderboard from (when deployed, over the stream, bits, tokens)."""
    return [
        {"recipe": name, "deployed": end, "deployed_low": end and end - 0.1, "deployed_high": end and end + 0.1,
         "deployed_bits": b, "deployed_bits_low": b - 0.2, "deployed_bits_high": b + 0.2,
         "metric": m, "metric_low": m - 0.1, "metric_high": m + 0.1, "metric_n": 40, "n": 40,
         "bits_per_example": b, "query_tokens": t, "query_ms": 5.0, "status": "done"}
        for name, (end, m, b, t) in found.items()
    ]  # fmt: skip


def test_the_words_say_how_sure_the_choice_is_and_what_it_costs():
    rng = np.random.default_rng(0)
    good = (rng.random(40) < 0.8).astype(float)
    near = np.where(np.arange(40) < 2, 1 - good, good)
    bits = np.linspace(3, 0.2, 40)
    scored = {"bm25": rows(good, bits), "random": rows(near, bits), "majority": rows(np.zeros(40), bits + 2)}
    found = compare_all("bm25", scored)
    assert [c["verdict"] for c in found] == ["no difference found", "worse than the chosen one"]
    assert found[1]["bits_saved"]["mean"] == pytest.approx(2)
    table = board(bm25=(0.84, 0.8, 1.6, 300), random=(0.79, 0.78, 1.6, 100), majority=(0.0, 0.0, 3.6, 0))
    lead = {"recipe": "random", "gap": 0.05, "standard_error": 0.03}
    said = in_words(TASK, table, scored, found, n_known=200, lead=lead)
    assert said.startswith(
        "bm25 was chosen: once it knows all 200 examples it is expected to be right on 84 % (74 to 94) of new inputs. "
        "That is 5 points more than random (79 %), the next, give or take 6: too close to be sure. Over the stream, "
        "where each of 40 examples was predicted from those before it, it was right on 80 %. Row by row along the "
        "stream it was better than majority; no difference was found to random: "
    )
    clear = in_words(TASK, table, scored, found, n_known=200, lead=lead | {"standard_error": 0.01})
    assert "That is 5 points more than random (79 %), the next, give or take 2. Over" in clear
    assert "A query costs 300 prompt tokens; random, which is not clearly worse, takes 100 tokens." in said
    assert "It was still learning (2.32 bits in the first half of the stream, 0.88 in the second)" in said


def test_one_recipe_has_nothing_to_be_compared_with():
    flat = rows([1.0] * 30, [0.5, 0.6] * 15)
    said = in_words(TASK, board(random=(1.0, 1.0, 0.55, 50)), {"random": flat}, [], n_known=40)
    assert "is expected to be right on 100 % (90 to 110) of new inputs. Over the stream" in said
    assert "There was nothing to compare it with." in said
    assert "Its learning curve has no clear trend (0.55 bits in the first half" in said
    short = in_words(TASK, board(random=(None, 1.0, 0.55, 0)), {"random": flat[:5]}, [], n_known=40)
    assert short.startswith(
        "random was chosen, but 40 predictions are too few to say what is expected of it once it knows all 40 examples."
    )
    assert "A query costs no prompt tokens: it asks no language model." in short
    assert "The stream is too short to say what more examples would bring." in short


def test_many_comparisons_have_wider_intervals():
    rng = np.random.default_rng(1)
    scored = {f"r{i}": rows((rng.random(60) < 0.5).astype(float), rng.random(60)) for i in range(9)}
    few = compare_all("r0", {name: scored[name] for name in ("r0", "r1")})[0]["score"]
    many = compare_all("r0", scored)[0]["score"]
    assert many["low"] < few["low"] < few["high"] < many["high"]


@pytest.mark.parametrize(
    ("m", "races"), [(8, 120), *(pytest.param(m, 4000, marks=pytest.mark.slow) for m in (4, 8, 12))]
)
def test_the_best_of_equal_recipes_is_rarely_called_better(m, races):
    """In at most 5 % of races anything is called different, though the one that is compared is the best of them."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(races):
        scored = {f"r{i}": rows((rng.random(100) < 0.6).astype(float), np.zeros(100)) for i in range(m)}
        best = max(scored, key=lambda name: sum(r["score"] for r in scored[name]))
        alarms += any(c["verdict"] != "no difference found" for c in compare_all(best, scored))
    assert alarms / races <= 0.05 + 1.64 * np.sqrt(0.05 * 0.95 / races)


def test_the_words_say_why_the_highest_was_not_chosen():
    scored = {name: rows([1.0, 0.0] * 20, [0.5, 0.6] * 20) for name in ("random", "bm25")}
    table = board(random=(0.58, 0.5, 0.55, 50), bm25=(0.55, 0.6, 0.5, 300))
    found = compare_all("random", scored)
    lead = {"recipe": "bm25", "gap": 0.03, "standard_error": 0.05}
    said = in_words(TASK, table, scored, found, n_known=90, lead=lead)
    assert "it was right on 50 %; bm25 had more there (60 %), but less is expected of it in the end (55 %)." in said
    assert "no difference was found to bm25: 0.0 points behind" in said
    preferred = board(random=(0.58, 0.5, 0.55, 50), bm25=(0.6, 0.6, 0.5, 300))
    said = in_words(TASK, preferred, scored, found, n_known=90, lead=lead | {"gap": -0.02}, prefer="cheap-queries")
    why = "bm25 (60 %) is expected to do better, but by less than a standard error, and cheap-queries is preferred."
    assert why in said
    scored["bm25"] = rows([1.0, 1.0, 1.0, 1.0] + [1.0, 0.0] * 18, [0.5, 0.6] * 20)
    ahead = in_words(TASK, table, scored, compare_all("random", scored), n_known=90, lead=lead)
    assert re.search(r"to bm25: 5\.0 points ahead \(-\d+\.\d to \+\d+\.\d\)", ahead)


def test_the_words_name_what_the_choice_compared():
    scored = {name: rows([1.0, 0.0] * 20, [0.5, 0.6] * 20) for name in ("random", "bm25")}
    table = board(random=(0.58, 0.5, 0.55, 50), bm25=(0.55, 0.6, 0.5, 300))
    lead = {"recipe": "bm25", "gap": 0.03, "standard_error": 0.01}
    said = in_words(TASK, table, scored, [], n_known=90, lead=lead, by="bits")
    assert said.startswith(
        "random was chosen: once it knows all 90 examples it is expected to cost 0.55 bits an answer (0.35 to 0.75) on "
        "new inputs. That is 0.03 bits fewer than bm25 (0.50 bits an answer), the next, give or take 0.02. Over the "
    )
    assert "it cost 0.55 bits an answer; bm25 needed fewer there (0.50 bits an answer)." in said
    f1 = replace(TASK, metrics=("macro_f1",))
    said = in_words(f1, table, scored, [], n_known=90, lead=lead)
    assert "is expected to be at macro_f1 0.580 (0.480 to 0.680) on new inputs. That is 0.030 more than bm25 (" in said


@pytest.mark.parametrize("n", [24, 40, 100])
@pytest.mark.parametrize("p", [0.5, 0.85])
def test_intervals_of_what_is_expected_hold(n, p):
    """Of rows that stand for the final recipe, and of a stream whose slope is as small as slopes are believed to be."""
    rng, n_end = np.random.default_rng(n), 4 * n
    slope = 0.03 * rng.standard_normal(2000)
    held = {True: 0, False: 0}
    for i in range(2000):
        end = (rng.random(n) < p).astype(float)
        curve = np.clip(p + slope[i] * (np.log(np.arange(1, n + 1)) - np.log(n_end + 1)), 0, 1)
        stream = (rng.random(n) < curve).astype(float)
        for known in (Evidence(end, range(n), dict(enumerate(end))), Evidence(stream, range(n))):
            value = min(1.0, max(0.0, known.expected(n_end)))
            low, high = known.interval(value, n_end, is_share=True)
            held[bool(known.final)] += low <= p <= high
    assert held[True] / 2000 >= 0.92
    assert held[False] / 2000 >= 0.92


def test_intervals_of_bits_are_those_of_their_mean():
    bits = -np.linspace(1, 2, 30)
    known = Evidence(bits, range(30), dict(enumerate(bits)))
    assert known.interval(1.5, 100, is_share=False) == pytest.approx(
        scipy.stats.t.interval(0.95, 29, 1.5, scipy.stats.sem(bits))
    )
    assert Evidence(bits[:11], range(11)).interval(1.5, 100, is_share=False) is None
