"""Baselines that look at embeddings alone: DPP, MMD and optimal transport, each against its formula."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.types import Example, FloatArray, Question
from kshot.methods.selectors import dpp, embedded_pool
from kshot.methods.selectors.dpp import Dpp, greedy_map
from kshot.methods.selectors.mmd import Mmd, kernel_of, least_discrepancy
from kshot.methods.selectors.optimal_transport import OptimalTransport
from kshot.methods.selectors.transport import transport_cost
from kshot.recipes.grammar import parse_recipe


class Table:
    """An encoder that knows a vector for each number."""

    def __init__(self, rows: Sequence[Sequence[float]]):
        self._rows = np.array(rows, dtype=np.float64)
        self._rows /= np.linalg.norm(self._rows, axis=1, keepdims=True)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._rows[int(text)] for text in texts], dtype=np.float32).reshape(len(texts), -1)


def pool_of(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Sequence[float]]) -> list[Example]:
    """Let the selectors see these vectors, and return a pool of which each example has one."""
    table = Table(rows)
    for module in (dpp, embedded_pool):
        monkeypatch.setattr(module, "load_encoder", lambda name: table)
    return [Example(str(i), "", str(i)) for i in range(len(rows))]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chosen(selector, pool: Sequence[Example], k: int, asked: str | None = None, seed: int = 0) -> list[int]:
    fit = selector.fit(pool, model=None, rng=rng())
    return fit.select(Question(asked, "q") if asked else None, k, rng=rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_map_takes_what_makes_the_determinant_largest(seed):
    rows, quality = rng(seed).normal(size=(9, 5)), rng(seed + 9).normal(size=9)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = np.exp(quality)[:, None] * (rows @ rows.T) * np.exp(quality)
    picks: list[int] = []
    for _ in range(4):
        others = [i for i in range(9) if i not in picks]
        picks.append(max(others, key=lambda i: np.linalg.det(kernel[np.ix_([*picks, i], [*picks, i])])))
    assert greedy_map(rows @ rows.T, quality, 4) == picks
    every = greedy_map(rows @ rows.T, quality, 9)  # five dimensions: four rows add nothing
    assert every[:4] == picks
    assert every[5:] == sorted(every[5:])
    assert sorted(every) == list(range(9))


def test_dpp_shows_no_copies_where_there_is_something_else(monkeypatch):
    near, copy, beside, far = (1, 0.1, 0), (1, 0.1, 0), (1, -0.4, 0.2), (-1, 0, 0.1)
    pool = pool_of(monkeypatch, [near, copy, beside, far, (1, 0, 0)])
    assert chosen(Dpp(), pool[:4], 2, "4") == [2, 0]
    assert chosen(Dpp(), pool[:4], 4, "4") == [3, 2, 1, 0]  # the nearest last; of copies the first
    assert set(chosen(Dpp(trade_off=1e-3), pool[:4], 2, "4")) == {0, 2}  # a copy adds nothing however near
    assert set(chosen(Dpp(depth=1), pool[:4], 2, "4")) == {0, 1}  # no others are looked at
    with pytest.raises(UserError, match="'dpp' chooses for one query at a time"):
        chosen(Dpp(), pool, 2)


@pytest.mark.parametrize("trade_off", [0.05, 1.0])
def test_a_large_trade_off_takes_what_differs(monkeypatch, trade_off):
    rows = [*rng(1).normal(size=(30, 6)) * 0.6 + np.eye(6)[0], np.eye(6)[0]]
    pool = pool_of(monkeypatch, rows)
    picks = chosen(Dpp(trade_off=trade_off), pool[:30], 5, "30")
    table = Table(rows).embed([str(i) for i in range(31)])
    nearness, likeness = (table[picks] @ table[30]).mean(), (table[picks] @ table[picks].T).mean()
    assert (nearness > 0.75, likeness > 0.75) == ((True, True) if trade_off < 1 else (False, False))


def discrepancy(kernel: FloatArray, some: Sequence[int]) -> float:
    return float(kernel[np.ix_(some, some)].mean() - 2 * kernel[list(some)].mean() + kernel.mean())


def test_mmd_takes_what_brings_the_set_nearest_to_the_pool():
    kernel = kernel_of(rng(0).normal(size=(12, 3)))
    picks: list[int] = []
    for _ in range(5):
        picks.append(min((i for i in range(12) if i not in picks), key=lambda i: discrepancy(kernel, [*picks, i])))
    assert least_discrepancy(kernel, 5) == picks
    every = [discrepancy(kernel, some) for some in combinations(range(12), 5)]
    assert discrepancy(kernel, picks) < np.quantile(every, 0.05)
    assert sorted(least_discrepancy(kernel, 99)) == list(range(12))


def test_mmd_shows_one_of_each_cluster_with_the_most_typical_example_last(monkeypatch):
    corners = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    rows = [np.array(c) + 0.05 * rng(i).normal(size=3) for i, c in enumerate(corners * 5)]
    pool = pool_of(monkeypatch, [*rows, (1, 0.02, 0)])
    picks = chosen(Mmd(), pool, 3)
    assert {i % 3 for i in picks} == {0, 1, 2}
    assert picks[-1] % 3 == 0  # the largest cluster
    assert chosen(Mmd(), pool_of(monkeypatch, [(1, 0)] * 4), 3) == [2, 1, 0]


def test_optimal_transport_takes_the_cheapest_of_its_sets(monkeypatch):
    rows = rng(2).normal(size=(30, 4))
    pool = pool_of(monkeypatch, rows)
    picks = chosen(OptimalTransport(n=50, queries=8), pool, 4, seed=3)
    table, again = Table(rows).embed([e.input for e in pool]).astype(float), rng(3)
    order = again.permutation(30)
    held_out, others = order[:8], order[8:]
    sets = [again.permutation(others)[:4].tolist() for _ in range(50)]
    costs = [transport_cost(1 - table[some] @ table[held_out].T) for some in sets]
    assert picks == sets[int(np.argmin(costs))]
    assert not set(picks) & set(held_out.tolist())
    assert sorted(chosen(OptimalTransport(), pool[:3], 5)) == [0, 1, 2]


def test_optimal_transport_carries_to_no_example_that_was_made(monkeypatch):
    pool = pool_of(monkeypatch, [(1, 0)] * 12 + [(0, 1)] * 24)
    pool = [e if i < 12 else replace(e, meta={"made": "word-edits"}) for i, e in enumerate(pool)]
    for seed in range(5):
        assert max(chosen(OptimalTransport(queries=4), pool, 2, seed=seed)) < 12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dpp:trade_off=0", "dpp:trade_off must be greater than 0; got 0"),
        ("dpp:depth=0", "dpp:depth must be 1 or more; got 0."),
        ("optimal-transport:n=1", "optimal-transport:n must be 2 or more; got 1."),
    ],
)
def test_settings_are_checked(name, said):
    with pytest.raises(UserError, match=said):
        parse_recipe(name, shots=2)
