"""Sequences of labelled items are as bursty, as steep and as labelled as asked, and the studies of them learn."""

import time

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.seeding import generator
from kshot.studies import EXPERIMENTS, labelled_classes
from kshot.studies.labelled_classes import draw, world


def made(classes=64, labels=8, dim=16, noise=0.1, exponent=0.0, seed=0):
    return world(classes, labels, dim, noise=noise, exponent=exponent, rng=np.random.default_rng(seed))


def drawn(known, n=2000, seed=1, **how):
    usual = {"sizes": (4, 4), "bursty": 1.0}
    return draw(known, n, rng=np.random.default_rng(seed), **{**usual, **how})


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (3, 3, 1, 1), (1,) * 8, (8,)])
def test_each_class_of_a_bursty_sequence_comes_as_often_as_asked(sizes):
    found = drawn(made(), sizes=sizes)
    counts = [sorted(np.unique(row[:-1], return_counts=True)[1].tolist()) for row in found.classes]
    assert counts == [sorted(sizes)] * 2000
    assert (found.same.sum(1) == sizes[0]).all()
    if len(sizes) > 1:  # each place holds the right class as often as any other
        assert found.same.mean(0) == pytest.approx(sizes[0] / 8, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_share_of_bursty_sequences_is_that_asked_for(share):
    known = made(classes=1024)
    found = drawn(known, 4000, bursty=share)
    alike = found.same.sum(1) == 4  # by chance alone in one of 10^10 others
    assert alike.mean() == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 4000) + 1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_frequencies_fall_with_the_exponent_asked_for(exponent):
    """The most likely exponent of what was drawn is the one asked for, within four standard errors."""
    found = drawn(made(exponent=exponent), 20_000, bursty=0.0).classes.ravel()
    logs = np.log(np.arange(1, 65))
    grid = np.linspace(exponent - 0.2, exponent + 0.2, 401)
    likely = [-a * logs[found].mean() - np.log(np.exp(-a * logs).sum()) for a in grid]
    spread = np.sqrt(np.cov(logs, aweights=np.exp(-exponent * logs), bias=True) * len(found))
    assert abs(grid[np.argmax(likely)] - exponent) < 4 / spread + 1e-3


def test_as_many_classes_as_there_are_can_be_drawn():
    """Also where one of them is nearly all: then drawing again would not end."""
    known = made(classes=8, exponent=10.0)
    found = known.distinct(500, 8, np.random.default_rng(0))
    assert (np.sort(found, axis=1) == np.arange(8)).all()
    assert (found[:, :2] == (0, 1)).all(1).mean() > 0.95  # the shares are 1, 1 / 1024, 1 / 59049, …


@pytest.mark.parametrize("rounds", [1, 16])
def test_classes_of_a_bursty_sequence_are_drawn_by_their_shares(rounds, monkeypatch):
    """The first by its share, the second by its share of what is left; in both ways of drawing."""
    monkeypatch.setattr(labelled_classes, "_ROUNDS", rounds)
    known = made(classes=4, labels=2, exponent=1.0)
    found = known.distinct(100_000, 2, np.random.default_rng(0))
    shares = known.shares
    both = np.zeros((4, 4))
    np.add.at(both, (found[:, 0], found[:, 1]), 1e-5)
    expected = shares[:, None] * shares[None, :] / (1 - shares[:, None])
    np.fill_diagonal(expected, 0)
    assert both == pytest.approx(expected, abs=0.006)


def test_labels_are_those_of_the_classes_and_all_equally_frequent():
    known = made()
    found = drawn(known)
    assert (found.labels == known.labels[found.classes[:, :-1]]).all()
    assert (found.target == known.labels[found.classes[:, -1]]).all()
    assert np.bincount(found.target) / 2000 == pytest.approx(np.full(8, 1 / 8), abs=0.03)
    assert (found.tokens[:, 1::2] == known.signs[found.labels]).all()
    moved = drawn(known, shift=1)
    assert (moved.labels == (found.labels + 1) % 8).all()
    assert (moved.target == (found.target + 1) % 8).all()
    assert (moved.tokens[:, ::2] == found.tokens[:, ::2]).all()


def test_new_classes_are_nowhere_else_and_have_labels_of_their_own():
    known = made(dim=63, noise=0.0)
    found = drawn(known, new=1.0)
    items = found.tokens[:, ::2]
    assert np.abs(items[:50, :, None] - known.means).max(-1).min() > 0.01
    for row, classes, target in zip(found.labels, found.classes, found.target, strict=True):
        assert len({*zip(row.tolist(), classes[:-1].tolist(), strict=True)}) == len(set(row.tolist())) == 2
        assert target == row[classes[:-1] == classes[-1]][0]
    assert np.bincount(found.target) / 2000 == pytest.approx(np.full(8, 1 / 8), abs=0.03)
    assert drawn(known, new=0.25).classes.min(1).__lt__(0).mean() == pytest.approx(0.25, abs=0.03)


def test_items_vary_as_much_as_asked():
    """Within a class the variance is noise^2 / (1 + noise^2) of the whole, which is 1 / dim."""
    known = made(classes=8, dim=200, noise=0.5)
    found = drawn(known, 3000)
    at = found.classes == 3
    of_class = found.tokens[:, ::2][at]
    assert of_class.var(0).mean() * 200 == pytest.approx(0.25 / 1.25, rel=0.05)
    assert of_class.mean(0) == pytest.approx(known.means[3] / np.sqrt(1.25), abs=0.01)
    assert found.tokens.dtype == np.float32


def test_a_class_that_is_asked_about_can_be_kept_out():
    known = made(classes=8, exponent=2.0)
    assert drawn(known, bursty=0.0).same.any()
    assert not drawn(known, bursty=0.0, absent=True).same.any()


def test_the_same_seed_gives_the_same_sequences():
    first, again, other = (drawn(made(), bursty=0.5, new=0.5, seed=seed) for seed in (1, 1, 2))
    assert (first.tokens == again.tokens).all()
    assert (first.target == again.target).all()
    assert not (first.tokens == other.tokens).all()


SIZES = {
    "induction(classes=100)": "induction:classes must be multiples of labels=32, and no fewer than items=8; got 100.",
    "induction(bursts=0/3)": "induction:bursts must divide items=8; got 3.",
    "induction(bursts=1.5)": "bursts must be whole numbers; got 1.5.",
    "induction(bursts=all)": "induction:bursts must be numbers in 0..8 with / between; got 'all'.",
    "induction(places=16)": "places must be 17 or more, as a sequence of 8 items is so long; got 16.",
    "distribution(classes=32/48)": "distribution:classes must be multiples of labels=32, and no fewer than 8; got 48.",
    "distribution(bursty=2)": "bursty must be numbers in 0..1 with / between; got '2'.",
    "distribution(exponents=-1)": "exponents must be numbers in 0..10 with / between; got '-1'.",
}


@pytest.mark.parametrize("text", SIZES)
def test_sizes_that_do_not_fit_are_refused(text):
    with pytest.raises(UserError) as refused:
        EXPERIMENTS.build(text)
    assert SIZES[text] in str(refused.value)


def trained(text, cell, scale=1.0, seed=0):
    made = EXPERIMENTS.build(text)
    (found,) = (one for one in made.cells() if one.name == cell)
    return made.run(found, rng=generator(seed, "study", cell), progress=Silence(), scale=scale)


def test_few_classes_are_learnt_in_the_weights():
    small = "induction(bursts=0,classes=16,labels=4,dim=16,items=4,places=9,batch=32,lr=3e-3)"
    rows = trained(small, "B=0-K=16", scale=0.06)
    assert rows[0]["in_weights"] < 0.5
    assert rows[-1]["in_weights"] > 0.9
    assert rows[-1]["new_classes"] < 0.5


@pytest.mark.slow
def test_bursts_of_many_classes_bring_learning_in_context_and_few_classes_learning_in_weights():
    """Row 26: within four minutes of one core."""
    began = time.process_time()
    weights = trained("induction", "B=0-K=128", scale=0.4)[-1]
    assert weights["in_weights"] > 0.9
    assert weights["new_classes"] < 0.1
    rows = trained("induction", "B=4-K=1024")
    assert rows[-1]["new_classes"] > 0.85
    assert rows[-1]["other_labels"] > 0.85
    assert rows[-1]["in_weights"] < 0.2
    assert rows[-1]["induction"] > 0.5 > rows[1]["induction"]
    assert time.process_time() - began < 240
