import re
from itertools import combinations

import numpy as np
import pytest

from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.methods.selectors import matching
from kshot.methods.selectors.matching import match
from kshot.methods.selectors.random import Random


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def low_rank(n: int, dim: int = 40, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Gradients as they look: few directions, noise, a mean that is not zero, norms of very different size."""
    g = rng(seed)
    x = (g.standard_normal((n, 6)) + 0.3) @ g.standard_normal((6, dim)) + 0.2 * g.standard_normal((n, dim))
    return (x * g.lognormal(0, spread, (n, 1))).astype(np.float32)


def error(x: np.ndarray, chosen) -> float:
    x = x.astype(np.float64)
    return float(np.linalg.norm(x[list(chosen)].mean(0) - x.mean(0)))


def normalized(x: np.ndarray, how: str, n_blocks: int) -> np.ndarray:
    x = x.astype(np.float64)
    if how == "row":
        return np.array([row / np.linalg.norm(row) if row.any() else row for row in x])
    if how == "snapshot":
        blocks = np.split(x, n_blocks, axis=1)
        return np.hstack([b / np.sqrt(np.mean(np.sum(b**2, axis=1))) if b.any() else b for b in blocks])
    return x


def naive(x: np.ndarray, k: int) -> tuple[list[int], list[int], int]:
    """The paper's procedure word for word: every error from the rows. Returns the greedy start, the end, the swaps."""
    chosen: list[int] = []
    for _ in range(k):
        others = [j for j in range(len(x)) if j not in chosen]
        chosen.append(min(others, key=lambda j: error(x, [*chosen, j])))
    greedy, n_swaps = list(chosen), 0
    while True:
        outside = [c for c in range(len(x)) if c not in chosen]
        swapped = [[*chosen[:a], c, *chosen[a + 1 :]] for c in outside for a in range(k)]
        best = min(swapped, key=lambda s: error(x, s))
        if error(x, chosen) - error(x, best) <= 1e-6:
            return greedy, chosen, n_swaps
        chosen, n_swaps = best, n_swaps + 1


FORMS = pytest.mark.parametrize("whole_gram_up_to", [4096, 0], ids=["whole", "passes"])


@FORMS
@pytest.mark.parametrize("seed", range(4))
def test_gram_form_is_the_procedure_word_for_word(seed, whole_gram_up_to):
    x = low_rank(30, 12, seed)
    greedy, chosen, n_swaps = naive(x, 5)
    found = match(x, 5, whole_gram_up_to=whole_gram_up_to)
    assert found.indices == tuple(chosen)
    assert found.n_swaps == n_swaps
    assert found.error == pytest.approx(error(x, chosen), rel=1e-9)
    assert found.greedy_error == pytest.approx(error(x, greedy), rel=1e-9)


def test_some_of_these_instances_do_swap():
    assert sum(match(low_rank(30, 12, seed), 5).n_swaps for seed in range(4)) >= 4


@FORMS
@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
def test_swaps_help_and_none_is_left_whatever_the_scale(scale, whole_gram_up_to):
    x = low_rank(60, seed=7) * np.float32(scale)
    found = match(x, 6, whole_gram_up_to=whole_gram_up_to)
    assert found.n_swaps > 0
    assert found.error < found.greedy_error
    assert len(found.indices) == len(set(found.indices)) == 6
    assert set(found.indices) <= set(range(60))
    assert all(type(i) is int for i in found.indices)
    assert match(x, 6, whole_gram_up_to=whole_gram_up_to) == found
    outside = set(range(60)) - set(found.indices)
    swaps = [[c if i == a else i for i in found.indices] for a in found.indices for c in outside]
    assert min(error(x, s) for s in swaps) >= found.error - 1e-5 * found.random_error


def test_what_is_swapped_in_takes_the_slot_of_what_it_replaces(monkeypatch):
    x = low_rank(60, seed=7)
    after = [match(x, 6).indices]
    for most in (1, 0):
        monkeypatch.setattr(matching, "MOST_SWAPS", most)
        after.append(match(x, 6).indices)
    start, one = after[2], after[1]
    assert sum(a != b for a, b in zip(start, one, strict=True)) == 1
    assert error(x, after[0]) < error(x, one) < error(x, start)


@pytest.mark.parametrize("normalize", ["none", "row", "snapshot"])
@pytest.mark.parametrize(("n_pool", "k"), [(300, 8), (700, 48)])
def test_passes_choose_what_the_whole_gram_matrix_chooses(n_pool, k, normalize, tmp_path, monkeypatch):
    x = low_rank(n_pool, 64, seed=4)
    x.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype=np.float32, mode="r", shape=x.shape)
    whole = match(x, k, normalize=normalize, n_blocks=4, restarts=2, rng=rng())
    # Blocks that do not divide the pool, and a memory smaller than the choice.
    monkeypatch.setattr(matching, "BLOCK", 64 * 37)
    monkeypatch.setattr(matching, "CACHED", 20)
    passes = match(mapped, k, normalize=normalize, n_blocks=4, restarts=2, rng=rng(), whole_gram_up_to=0)
    assert passes.indices == whole.indices
    assert passes.n_swaps == whole.n_swaps > 0
    assert passes.error == pytest.approx(whole.error, rel=1e-9)
    assert passes.random_error == pytest.approx(whole.random_error, rel=1e-12)
    assert passes.norm_percentile == whole.norm_percentile


def test_rows_are_read_ahead(monkeypatch):
    x, k = rng(1).standard_normal((1500, 100)).astype(np.float32), 32
    passes: list[int] = []
    original = matching._Pool._pass

    def counted(self, which):
        assert len(self._known) <= matching.CACHED
        passes.append(len(which))
        return original(self, which)

    monkeypatch.setattr(matching, "CACHED", 24)
    monkeypatch.setattr(matching._Pool, "_pass", counted)
    match(x, k, farthest=True, whole_gram_up_to=0)
    assert passes == [1] * k
    passes.clear()
    # A start that is far from the end, so that there are many swaps.
    monkeypatch.setattr(matching, "_greedy", lambda *_: list(range(k)))
    found = match(x, k, whole_gram_up_to=0)
    assert found == match(x, k)
    assert found.n_swaps >= 10
    assert passes[0] == k
    assert len(passes) - 1 < found.n_swaps / 2
    assert max(passes[1:]) <= matching.PREFETCHED + 1


@pytest.fixture(scope="module")
def brute():
    """100 pools, the least error of all choices, and what was found with and without restarts."""
    every = np.array(list(combinations(range(14), 4)))
    rows = []
    for seed in range(100):
        x = rng(seed).standard_normal((14, 20)).astype(np.float32)
        centred = x - x.mean(0, dtype=np.float64)
        optimum = np.linalg.norm(centred[every].mean(1), axis=1).min()
        rows.append((optimum, match(x, 4).error, match(x, 4, restarts=10, rng=rng(seed)).error))
    return np.array(rows)


def test_brute_force_swaps_come_near_the_optimum(brute):
    optimum, found, _ = brute.T
    assert (found >= optimum - 1e-9).all()
    assert (found <= 1.6 * optimum).all()
    assert 0.2 <= np.isclose(found, optimum, rtol=1e-9).mean() < 0.9  # else restarts have nothing to add


def test_brute_force_restarts_find_the_optimum(brute):
    optimum, single, found = brute.T
    assert (found >= optimum - 1e-9).all()
    assert (found <= single + 1e-9).all()
    assert np.isclose(found, optimum, rtol=1e-9).mean() >= 0.9


@pytest.mark.parametrize("k", [4, 16])
def test_law_of_random_sets_and_how_far_below_it_the_choice_is(k):
    x = low_rank(200, spread=0.3)
    found = match(x, k)
    g = rng(1)
    drawn = np.array([error(x, g.choice(len(x), k, replace=False)) for _ in range(500)])
    assert np.mean(drawn**2) == pytest.approx(found.random_error**2, rel=0.05)
    assert found.error < drawn[:200].min()
    assert found.error < drawn.mean() / 4


def test_law_of_random_sets_is_exact():
    x = low_rank(9, 5)
    for k in range(1, 10):
        squares = [error(x, s) ** 2 for s in combinations(range(9), k)]
        assert match(x, k).random_error == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6, abs=1e-7)


@FORMS
def test_the_whole_pool(whole_gram_up_to):
    x = low_rank(20)
    found = match(x, 20, whole_gram_up_to=whole_gram_up_to)
    assert sorted(found.indices) == list(range(20))
    assert found.error < 1e-12
    assert found.random_error == 0
    assert found.n_swaps == 0
    assert found.norm_percentile == pytest.approx(50)


@FORMS
def test_one_row_is_the_nearest_to_the_mean(whole_gram_up_to):
    for seed in range(5):
        x = low_rank(50, seed=seed)
        nearest = np.linalg.norm(x - x.mean(0), axis=1).argmin()
        assert match(x, 1, whole_gram_up_to=whole_gram_up_to).indices == (nearest,)


@FORMS
def test_a_pool_of_one_row(whole_gram_up_to):
    found = match(low_rank(1), 1, whole_gram_up_to=whole_gram_up_to)
    assert found == matching.Matched((0,), 0.0, 0.0, 0.0, 0, 50.0)


@FORMS
@pytest.mark.parametrize("normalize", matching.NORMALIZATIONS)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_equal_rows_are_taken_in_order(value, normalize, whole_gram_up_to):
    x = np.full((9, 6), value, dtype=np.float32)
    found = match(x, 4, normalize=normalize, n_blocks=2, whole_gram_up_to=whole_gram_up_to)
    assert found.indices == (0, 1, 2, 3)
    assert found.error < 1e-15
    assert found.n_swaps == 0
    assert found.norm_percentile == 50


@FORMS
def test_of_duplicates_the_first_is_taken_first(whole_gram_up_to):
    once = low_rank(25, seed=2)
    x = np.concatenate([once, once, once])
    found = match(x, 6, whole_gram_up_to=whole_gram_up_to)
    assert len(set(found.indices)) == 6
    assert found.indices[0] < 25
    mean = x.mean(0, dtype=np.float64)
    assert found.indices[0] == np.linalg.norm(x - mean, axis=1).round(4).argmin()
    assert all(i - 25 in found.indices for i in found.indices if i >= 25)
    assert any(i >= 25 for i in found.indices)


@FORMS
def test_rounding_does_not_decide_between_duplicates(whole_gram_up_to, monkeypatch):
    monkeypatch.setattr(matching, "MOST_SWAPS", 0)
    for seed in range(10):
        once = low_rank(37, 301, seed)
        found = match(np.concatenate([once, once, once]), 20, whole_gram_up_to=whole_gram_up_to)
        for slot, i in enumerate(found.indices):
            assert i < 37 or i - 37 in found.indices[:slot]


@FORMS
@pytest.mark.parametrize("normalize", matching.NORMALIZATIONS)
def test_normalization_is_the_plain_computation(normalize, whole_gram_up_to):
    x = low_rank(40, 12, seed=4)
    x[:, 4:8] *= 100  # one snapshot outweighs the others
    x[:, 8:] = 0  # a snapshot without a gradient
    x[7] = 0  # an example without one
    plain = normalized(x, normalize, 3)
    found = match(x, 5, normalize=normalize, n_blocks=3, whole_gram_up_to=whole_gram_up_to)
    _, chosen, _ = naive(plain, 5)
    assert found.indices == tuple(chosen)
    assert found.error == pytest.approx(error(plain, chosen), rel=1e-6)
    spread = np.mean(np.sum((plain - plain.mean(0)) ** 2, axis=1))
    assert found.random_error == pytest.approx(np.sqrt(spread * 35 / (5 * 39)), rel=1e-6)


def test_normalizations_differ():
    x = low_rank(40, 12, seed=4)
    x[:, 4:8] *= 100
    chosen = {match(x, 5, normalize=how, n_blocks=3).indices for how in matching.NORMALIZATIONS}
    assert len(chosen) == 3


def test_rows_are_left_as_they_are():
    x = low_rank(30)
    before = x.copy()
    match(x, 4, normalize="row", whole_gram_up_to=0)
    assert (x == before).all()


def test_low_norms_are_preferred_and_the_percentile_says_so():
    g = rng(5)
    x = (g.standard_normal((600, 300)) * g.lognormal(0, 1, (600, 1))).astype(np.float32)
    none, row = match(x, 8), match(x, 8, normalize="row")
    assert none.norm_percentile < 5
    assert 25 < row.norm_percentile < 75
    norms = np.linalg.norm(x, axis=1)
    by_hand = [100 * (np.mean(norms < norms[i]) + np.mean(norms == norms[i]) / 2) for i in none.indices]
    assert none.norm_percentile == pytest.approx(np.mean(by_hand))


def test_the_farthest_are_worse_than_chance():
    for seed in range(5):
        x = low_rank(100, seed=seed)
        found = match(x, 8, farthest=True)
        assert found.error == found.greedy_error > found.random_error
        assert found.n_swaps == 0
        assert found.indices[0] == np.linalg.norm(x - x.mean(0), axis=1).argmax()
        assert found.error == pytest.approx(error(x, found.indices), rel=1e-9)


@FORMS
def test_groups_share_as_random_balanced_does(whole_gram_up_to):
    sizes = {"a": 40, "b": 2, "c": 25, "d": 13}
    groups = np.repeat(list(sizes), list(sizes.values()))
    x = low_rank(len(groups), seed=6)
    x[groups == "a"] += 1  # or nearly every set would do
    for k, shares in [(8, [2, 2, 2, 2]), (14, [4, 2, 4, 4]), (44, [15, 2, 14, 13]), (80, [40, 2, 25, 13])]:
        found = match(x, k, groups=groups, rng=rng(), whole_gram_up_to=whole_gram_up_to)
        counts = [int(np.sum(groups[list(found.indices)] == name)) for name in sizes]
        assert sum(counts) == k
        if k != 44:  # one of "a" and "c" gets one more
            assert counts == shares
        assert sorted(counts) == sorted(shares)
        assert found.error <= found.greedy_error
    assert match(x, 14, groups=groups, rng=rng()).n_swaps > 0


def test_groups_are_shared_by_the_same_rule_as_random_balanced():
    outputs = ["a"] * 9 + ["b"] * 2 + ["c"] * 5
    pool = [Example(str(i), o, id=str(i)) for i, o in enumerate(outputs)]

    def counts(indices) -> tuple[int, ...]:
        return tuple(sum(outputs[i] == name for i in indices) for name in "abc")

    x = low_rank(16, 5)
    balanced = Random(balanced=True).fit(pool, model=None, rng=rng())  # pyright: ignore[reportArgumentType]
    for k in (1, 2, 7, 11, 16):
        theirs = {counts(balanced.select(None, k, rng=rng(seed))) for seed in range(30)}
        ours = {counts(match(x, k, groups=outputs, rng=rng(seed)).indices) for seed in range(30)}
        assert ours == theirs


def test_restarts_keep_the_shares_of_groups():
    groups = np.arange(60) % 3
    x = low_rank(60, seed=7)
    x[groups == 0] *= 5
    alone = match(x, 6, groups=groups, rng=rng())
    for seed in range(5):
        found = match(x, 6, groups=groups, restarts=4, rng=rng(seed))
        assert np.bincount(groups[list(found.indices)]).tolist() == [2, 2, 2]
        assert found.error <= alone.error
        assert found.greedy_error == alone.greedy_error


def test_the_generator_alone_decides():
    x, groups = low_rank(50), np.arange(50) % 4
    assert match(x, 5, groups=groups, restarts=3, rng=rng(1)) == match(x, 5, groups=groups, restarts=3, rng=rng(1))
    assert len({match(x, 5, groups=groups, rng=rng(seed)).indices for seed in range(20)}) > 1


def test_greedy_wins_ties_with_restarts():
    x = low_rank(12, 4, seed=8)
    first = match(x, 11)  # few sets of 11 of 12: each search ends at the same one
    again = match(x, 11, restarts=5, rng=rng())
    assert again == first


def broken(value: float) -> np.ndarray:
    x = low_rank(10)
    x[[6, 3], 5] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", matching.NORMALIZATIONS)
def test_rows_that_are_not_finite_are_named(value, normalize):
    message = re.escape(
        "the rows must be finite numbers; row 3 has NaN or infinity, as 2 of 10 do; make them anew in float32, or "
        "leave these examples out."
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        match(broken(value), 2, normalize=normalize)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be in 1..10, the size of the pool; got 0."),
        ({"k": 11}, "k must be in 1..10, the size of the pool; got 11."),
        ({"normalize": "rows"}, "normalize must be one of none, row, snapshot; got 'rows'."),
        (
            {"restarts": 1},
            "rng must be given with restarts or groups, which draw; got None; pass a numpy Generator.",
        ),
        (
            {"groups": [0, 1] * 5},
            "rng must be given with restarts or groups, which draw; got None; pass a numpy Generator.",
        ),
        (
            {"farthest": True, "restarts": 2},
            "restarts must be 0 with farthest, which never swaps; got 2.",
        ),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        match(low_rank(10), **{"k": 2, **settings})


def test_the_example_of_the_docstring():
    assert match(np.array([[0], [1], [5], [6]], dtype=np.float32), 2).indices == (1, 2)
