"""Intervals of paired differences hold what they promise, and the choice is put in words."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from kshot.core.types import Task
from kshot.measures.comparison import bits_difference, compared, reach_of_all_pairs, score_difference, trend
from kshot.race.ranking import Evidence
from kshot.race.words import compare_all, in_words
from kshot.recipes.grammar import parse_recipes

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
    """Return rows of a leaderboard from (when deployed, behind, its error, tokens); one that is far behind is clear."""
    return [
        {"recipe": name.replace("_", "-").replace("X", ":contexts="), "deployed": end,
         "deployed_low": end and end - 0.1, "deployed_high": end and end + 0.1,
         "deployed_bits": end and 1 - end, "deployed_bits_low": end and 0.9 - end,
         "deployed_bits_high": end and 1.1 - end,
         "behind": gap, "behind_error": error, "is_close": None if gap is None else gap < 3 * error,
         "metric_n": 40, "n": 40, "query_tokens": t, "status": "done"}
        for name, (end, gap, error, t) in found.items()
    ]  # fmt: skip


NAMES = "bm25,random,majority,dense,all-past,zero-shot,random:contexts=8,average(bm25,zero-shot),mix"
PARSED = {r.name: r for r in parse_recipes(NAMES, shots=4)}
STEADY, LEARNING = (
    [{"position": at, "bits": b} for at, b in enumerate(bits)] for bits in ([0.5, 0.6] * 20, np.linspace(3, 0.2, 40))
)


def said(table, rows=STEADY, *, task=TASK, recipes=PARSED, **how):
    return in_words(task, table, {table[0]["recipe"]: rows}, recipes, n_known=200, **how)


def test_the_words_say_in_four_sentences_what_was_chosen_and_how_sure_that_is():
    best, near, far = (0.84, None, None, 300), (0.79, 0.05, 0.03, 100), (0.2, 0.64, 0.05, 0)
    whole = said(board(bm25=best, random=near, majority=far, randomX8=(0.82, 0.02, 0.02, 800)), LEARNING)
    assert whole == (
        "bm25 was chosen: once it knows all 200 examples it is expected to be right on 84 % of new inputs (95 % "
        "interval: 74 to 94). It is clearly ahead of majority, but against random and random:contexts=8 it is too "
        "close to be sure; random would cost 100 prompt tokens a query instead of 300. Averaging contexts "
        "(random:contexts=8) is expected to be 2 points behind it; combining recipes was not tried: add mix to "
        "--recipes. It was still learning: more examples should help."
    )
    assert "It is clearly ahead of majority and zero-shot. Averaging" in said(
        board(bm25=best, majority=far, zero_shot=far)
    )
    free = said(board(bm25=best, random=near, majority=(0.82, 0.02, 0.02, 0)))
    assert "Against random and majority it is too close to be sure; majority would cost nothing, as it asks no" in free
    assert free.endswith("Its learning curve does not say whether more examples would help.")
    many = said(board(bm25=best, random=near, dense=near, all_past=near, zero_shot=near))
    assert "Against random, dense and 2 more it is too close to be sure; random would cost 100" in many


def test_the_words_leave_out_what_there_is_nothing_to_say_about():
    alone = board(random=(0.9, None, None, 50))
    assert said(alone) == (
        "random was chosen: once it knows all 200 examples it is expected to be right on 90 % of new inputs (95 % "
        "interval: 80 to 100). Averaging contexts and combining recipes were not tried: add random:contexts=8,mix to "
        "--recipes. Its learning curve does not say whether more examples would help."
    )
    few = said(board(majority=(None, None, None, 0), random=(None, None, None, 50)), STEADY[:23])
    assert few == (
        "majority was chosen, but 40 predictions are too few to say what is expected of it once it knows all 200 "
        "examples."
    )
    out = [*board(zero_shot=(0.5, None, None, 9)), *board(bm25=(None, None, None, 9), random=(None, None, None, 9))]
    dropped = said([out[0], *(row | {"status": "dropped"} for row in out[1:])])
    assert "bm25 and random fell behind and were dropped on the way." in dropped
    assert dropped.endswith("It uses no examples, so more of them would not change it.")


def test_the_words_name_nothing_to_try_that_the_task_does_not_allow():
    sets = replace(TASK, kind="multi_label", labels=("a", "b"), metrics=("micro_f1",))
    text = said(board(random=(0.9, None, None, 50)), task=sets)
    assert "Averaging contexts was not tried: add random:contexts=8 to --recipes." in text


def test_the_words_name_no_mixture_of_one_recipe():
    one = board(randomX8=(0.9, None, None, 50))
    assert "mix" not in said(one)
    assert "add mix to --recipes" in said(one + board(bm25=(0.8, 0.1, 0.02, 50)))


def test_the_words_say_what_combining_would_give():
    rows = [*board(random=(0.58, None, None, 50), randomX8=(0.58, 0.001, 0.02, 90))]
    rows.append(board(bm25=(0.57, 0.01, 0.02, 90))[0] | {"recipe": "average(bm25,zero-shot)"})
    level = said(rows)
    assert "Averaging contexts (random:contexts=8) is expected to be level with it; combining recipes (" in level
    assert ") is expected to be 1 point behind it." in level
    combined = said([rows[2] | {"behind": None}, rows[0] | {"behind": 0.02, "behind_error": 0.01, "is_close": True}])
    assert "ontexts" not in combined  # one of several was chosen, and shows nothing itself
    mixed = said([rows[0], board(mix=(0.5, 0.08, 0.02, 90))[0]])
    assert "combining recipes (mix) is expected to be 8 points behind it" in mixed.lower()


def test_the_words_say_why_the_highest_was_not_chosen():
    preferred = board(random=(0.58, None, None, 50), bm25=(0.6, -0.02, 0.05, 300))
    why = "bm25 is expected to do better, but by less than a standard error, and it costs more."
    assert why in said(preferred, prefer="cheap-queries")


def test_the_words_name_what_the_choice_compared():
    table = board(random=(0.45, None, None, 50), randomX8=(0.42, 0.03, 0.02, 300))
    assert said(table, by="bits").startswith(
        "random was chosen: once it knows all 200 examples it is expected to cost 0.55 bits an answer on new inputs "
        "(95 % interval: 0.45 to 0.65). Against random:contexts=8 it is too close to be sure. Averaging contexts "
        "(random:contexts=8) is expected to be 0.03 bits behind it"
    )
    assert "is expected to be level with it" in said([table[0], table[1] | {"behind": -0.001}], by="bits")  # no -0.00
    f1 = said(table, task=replace(TASK, metrics=("macro_f1",)))
    assert "is expected to reach macro_f1 0.450 on new inputs (95 % interval: 0.350 to 0.550)." in f1
    assert "3 points behind it" in f1


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


@pytest.mark.parametrize("n_recipes", [2, 4, 12])
def test_of_equal_recipes_the_chosen_one_is_rarely_said_to_be_ahead(n_recipes):
    """The one to choose is the best of all; that it is clearly ahead of any is said in at most 5 % of races."""
    rng, alarms, reach = np.random.default_rng(n_recipes), 0, reach_of_all_pairs(n_recipes, 60)
    for _ in range(500):
        right = (rng.random((n_recipes, 60)) < 0.7).astype(float)
        found = [Evidence(row, range(60), dict(enumerate(row))) for row in right]
        first = max(found, key=lambda known: known.expected(60))
        gaps = [
            (first.expected(60) - o.expected(60), first.paired(o, 60, is_share=True)) for o in found if o is not first
        ]
        alarms += any(gap > reach * error for gap, error in gaps)
    assert alarms / 500 <= 0.06


def test_the_error_of_a_difference_is_never_nothing_where_little_is_known():
    stream, n_end = np.array([1.0, 0.0] * 10), 100
    along, looked = Evidence(stream, range(20)), Evidence(stream, range(20), dict(enumerate(stream)))
    same = looked.paired(looked, n_end, is_share=True)
    assert same == pytest.approx(1 / np.sqrt(22 * 20))  # as if one row in 22 differed
    assert looked.paired(looked, n_end, is_share=False) == 0  # bits say more
    assert along.paired(looked, n_end, is_share=True) == pytest.approx(same * np.sqrt(20 / along.n_worth(n_end)))
    assert along.n_worth(n_end) < looked.n_worth(n_end) == 20
    apart = [Evidence(stream, range(20), {i + j: v for j, v in enumerate(stream)}) for i in (0, 20)]
    assert apart[0].paired(apart[1], n_end, is_share=True) == pytest.approx(np.sqrt(0.5 / 20))
