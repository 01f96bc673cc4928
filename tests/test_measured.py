import numpy as np
import pytest

from kshot.measures.comparison import score_difference
from kshot.measures.intervals import wilson
from kshot.measures.measured import Gain, Measured, Shift, amount, mean, told


def rng():
    return np.random.default_rng(0)


def harmonic(rows):
    a, b = (np.nanmean(rows[:, k]) if (~np.isnan(rows[:, k])).any() else np.nan for k in (0, 1))
    return 2 * a * b / (a + b)


def test_a_share_has_wilsons_interval():
    found = Measured("abcd", [1, 0, 1, 1]).record(rng())
    assert (found["value"], found["n"]) == (0.75, 4)
    assert (found["low"], found["high"]) == wilson(3, 4)


def test_other_values_have_the_bootstraps_which_holds_the_mean():
    values = np.random.default_rng(3).normal(2, 1, size=200)
    found = Measured([str(i) for i in range(200)], values).record(rng())
    assert found["value"] == pytest.approx(values.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.1)


def test_a_statistic_of_units_of_two_kinds():
    rows = [[1, np.nan]] * 30 + [[np.nan, i % 2] for i in range(30)]
    found = Measured([str(i) for i in range(60)], rows, harmonic).record(rng())
    assert found["value"] == pytest.approx(2 / 3)
    assert found["low"] < 2 / 3 < found["high"]


def test_two_systems_are_compared_on_units_that_both_have_whatever_their_order():
    ours, theirs = Measured("abcx", [1, 1, 0, 0]), Measured("cbay", [0, 0, 1, 1])
    found = told({"share": ours}, {"share": theirs}, rng=rng())["share"]
    d = score_difference([1, 1, 0], [1, 0, 0])
    assert found["against"] == 0.5
    assert found["difference"] == {"value": d.mean, "low": d.low, "high": d.high, "n": 3}


def test_a_system_against_itself_differs_by_nothing():
    one = Measured([str(i) for i in range(20)], np.arange(20) / 7)
    assert one.against(one, rng()) == {"value": 0, "low": 0, "high": 0, "n": 20}


def test_without_units_there_is_no_number():
    assert Measured((), ()).record(rng())["value"] is None
    assert Measured("a", [0.3]).record(rng()) == {"value": 0.3, "low": None, "high": None, "n": 1}


def test_what_is_measured_is_told_wherever_it_stands():
    found = told({"n": 3, "groups": {"a": Measured("ab", [0, 1])}}, {"n": 3, "groups": {}}, rng=rng())
    assert found["n"] == 3
    assert found["groups"]["a"]["value"] == 0.5
    assert "against" not in found["groups"]["a"]


def test_amounts_that_happen_to_be_0_or_1_are_no_shares():
    assert Measured("abc", [0, 0, 0], amount).record(rng()) == {"value": 0, "low": 0, "high": 0, "n": 3}
    assert Measured("abc", [0, 0, 0]).record(rng())["high"] > 0.5


def test_a_gain_is_one_of_scores_and_keeps_a_width():
    ours, theirs = [1, 1, 0, 1, 0.5], [0, 1, 0, 1, 1]
    found, d = Gain("abcde", np.subtract(ours, theirs)).record(rng()), score_difference(ours, theirs)
    assert found == {"value": d.mean, "low": d.low, "high": d.high, "n": 5}
    none = Gain("abcd", [0, 0, 0, 0]).record(rng())
    assert none["low"] < none["value"] == 0 < none["high"]
    assert Gain((), ()).record(rng()) == {"value": None, "low": None, "high": None, "n": 0}


def test_a_shift_of_few_units_is_no_share():
    """As a share, one unit of 24 would be above 0 for certain, and none of 24 from 0 on."""
    units = [str(i) for i in range(24)]
    one, none = (Shift(units, [first] + [0] * 23).record(rng()) for first in (1, 0))
    assert one["low"] <= 0 < one["value"] < one["high"]
    assert none["low"] < 0 == none["value"] < none["high"]
    halves = [i % 3 / 2 - 0.25 for i in range(24)]
    assert Shift(units, halves).record(rng()) == Measured(units, halves).record(rng())
    same = Shift(units, [0.0] * 24)
    assert same.against(same, rng())["value"] == 0


def test_that_no_unit_differs_is_no_certainty():
    rows = [[0.0, 1.0]] * 20  # none of twenty

    def ratio(some):
        return float(some[:, 0].sum() / some[:, 1].sum())

    found = Measured([str(i) for i in range(20)], rows, ratio).record(rng())
    assert (found["low"], found["high"]) == wilson(0, 20)
    assert Measured("abc", [0.5, 0.5, 0.5]).record(rng())["high"] > 0.5
    assert Measured("abc", [0.5, 0.5, 0.5], amount).record(rng())["high"] == 0.5


def test_two_systems_with_the_same_scores_are_not_alike_for_certain():
    same, half = Measured("abcd", [0.9, 0.8, 0.7, 1.0]), Measured("abcd", [0.4, 0.3, 0.2, 0.5])
    alike = score_difference([0.0] * 4, [0.0] * 4)
    assert same.against(same, rng()) == {"value": 0, "low": alike.low, "high": alike.high, "n": 4}
    ahead = same.against(half, rng())
    assert ahead["low"] < 0.4 < ahead["value"] <= ahead["high"]


def test_where_no_unit_differs_those_that_give_nothing_make_no_number_surer():
    few, none = [1.0] * 5, [np.nan] * 95
    found = Measured([str(i) for i in range(100)], few + none).record(rng())
    assert (found["value"], found["low"], found["high"]) == (1, *wilson(5, 5))
    pairs = Measured([str(i) for i in range(100)], [[one, one] for one in few + none], lambda rows: mean(rows[:, 0]))
    assert pairs.record(rng())["low"] == wilson(5, 5)[0]
