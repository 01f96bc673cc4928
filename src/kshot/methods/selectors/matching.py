"""The few rows of a matrix whose mean is nearest to the mean of them all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kshot.core.errors import UserError
from kshot.core.types import FloatArray

NORMALIZATIONS = ("none", "row", "snapshot")
TOLERANCE, MOST_SWAPS = 1e-6, 1000
PREFETCHED, CACHED = 16, 64  # rows of the Gram matrix: read in one pass over the pool, and remembered
BLOCK = 2**22  # numbers that are in memory as float64 at a time, 32 MB
Kinds = NDArray[np.int_]  # the class of each row


@dataclass(frozen=True)
class Matched:
    """Which rows were chosen, and how near their mean is.

    Attributes:
        indices: In the order of the greedy picks; what was swapped in has the slot of what it replaced.
        error: |mean of the chosen rows - mean of all|, after normalisation.
        greedy_error: The same of the greedy start, before swaps.
        random_error: Root of the expected squared error of `k` rows drawn at random, whatever their groups.
        n_swaps: How many swaps led to `indices`.
        norm_percentile: Mean percentile, 0..100, of the chosen rows' norms in the pool, before normalisation.
    """

    indices: tuple[int, ...]
    error: float
    greedy_error: float
    random_error: float
    n_swaps: int
    norm_percentile: float


def match(rows: NDArray[np.float32], k: int, *, restarts: int = 0, **settings: Any) -> Matched:
    """Return the set of `searches` with the least error, the greedy one of equals; arguments as there.

    Example:
        >>> match(np.array([[0], [1], [5], [6]], dtype=np.float32), 2).indices
        (1, 2)
    """
    best, *others = searches(rows, k, restarts=restarts, **settings)
    for found in others:
        best = found if found.error < best.error - TOLERANCE * best.random_error else best
    return best


def searches(
    rows: NDArray[np.float32],
    k: int,
    *,
    normalize: str = "none",
    n_blocks: int = 1,
    restarts: int = 0,
    groups: ArrayLike | None = None,
    farthest: bool = False,
    rng: np.random.Generator | None = None,
    whole_gram_up_to: int = 4096,
) -> list[Matched]:
    """Search for the `k` rows S that make |1/k sum over S of x_i - mean of all x| small; return each search's set.

    With x centred, s the sum over S and K = x x', a greedy pick adds the j with the least 2 s.x_j + K_jj; a swap takes
    the a in S and the c outside with the least K_aa + K_cc - 2 K_ac - 2 s.x_a + 2 s.x_c, by which |s|^2 changes, until
    none lowers the error by more than 1e-6 of a row's size (root mean square), or 1000 are done. Ties go to the lowest
    index; what differs by the rounding of float32 is a tie.

    A pick costs n_pool operations and a swap k x n_pool. K costs n_pool^2 x dim once, in float64; above
    `whole_gram_up_to` rows only its rows of what is chosen are made, by a pass over the pool for each pick and for
    every few swaps, in float32. Memory is K, or 8 x n_pool x (2 k + 80) bytes; `rows` is never copied.

    Args:
        rows: `[n_pool, dim]` float32, in memory or memory-mapped.
        k: How many rows, in 1..n_pool.
        normalize: "none"; "row" divides each row by its norm; "snapshot" divides each block of columns by the root
            of its rows' mean squared norm. What is zero stays zero.
        n_blocks: How many equal blocks of columns a row has.
        restarts: How many more searches by swaps start at a random set; the first one starts at the greedy set.
        groups: The class of each row, `[n_pool]`: equal numbers of each as far as they reach; lots decide the rest.
        farthest: Pick what is farthest instead, without swaps: the paper's ablation.
        rng: What `restarts` and `groups` draw from.
        whole_gram_up_to: The largest pool whose K is made as a whole.

    Raises:
        UserError: `k` is out of range, `normalize` unknown, `rng` missing, or a row not finite.

    Source: Zhang et al. (2025), https://arxiv.org/abs/2506.04579, and its official code.
    Differs: the least gain of a swap is relative to the size of rows, as gradients have no scale of their own (theirs:
    1e-6); K instead of sums over the dimensions; `normalize` (theirs: none), `restarts` and `groups` are ours.
    """
    if not 1 <= k <= len(rows):
        raise UserError(f"k must be in 1..{len(rows)}, the size of the pool; got {k}.")
    if normalize not in NORMALIZATIONS:
        raise UserError(f"normalize must be one of {', '.join(NORMALIZATIONS)}; got '{normalize}'.")
    if farthest and restarts:
        raise UserError(f"restarts must be 0 with farthest, which never swaps; got {restarts}.")
    if rng is None and (restarts or groups is not None):
        raise UserError("rng must be given with restarts or groups, which draw; got None; pass a numpy Generator.")
    n_pool = len(rows)
    pool = _Pool(np.asarray(rows), normalize, n_blocks, whole_gram=n_pool <= whole_gram_up_to)
    random_error = float(np.sqrt(pool.squares.mean() * (n_pool - k) / (k * max(n_pool - 1, 1))))
    least_gain = TOLERANCE * pool.size  # less is rounding
    kinds = np.unique(np.zeros(n_pool) if groups is None else np.asarray(groups), return_inverse=True)[1]
    quotas = _quotas(np.bincount(kinds), k, rng)
    chosen = _greedy(pool, kinds, quotas, farthest)
    greedy_error = pool.error(chosen)
    found = [(chosen, greedy_error, 0) if farthest else _swap(pool, kinds, chosen, least_gain)]
    found += [_swap(pool, kinds, _draw(kinds, quotas, rng), least_gain) for _ in range(restarts)]
    ranks = [np.searchsorted(np.sort(pool.norms), pool.norms, side) for side in ("left", "right")]
    percentiles = np.mean(ranks, axis=0) * 100 / n_pool
    return [
        Matched(tuple(chosen), error, greedy_error, random_error, n_swaps, float(np.mean(percentiles[chosen])))
        for chosen, error, n_swaps in found
    ]


class _Pool:
    """The rows as they are compared, normalised and without their mean, and the Gram matrix K of these."""

    def __init__(self, rows: NDArray[np.float32], normalize: str, n_blocks: int, whole_gram: bool):
        n_pool, dim = rows.shape
        self._rows, self._known = rows, {}
        squares = np.empty((n_pool, n_blocks))
        for part in _parts(n_pool, dim):
            cut = rows[part].astype(np.float64).reshape(-1, n_blocks, dim // n_blocks)
            squares[part] = np.einsum("rbd,rbd->rb", cut, cut)
        if len(odd := np.flatnonzero(~np.isfinite(squares).all(axis=1))):
            raise UserError(
                f"the rows must be finite numbers; row {odd[0]} has NaN or infinity, as {len(odd)} of {n_pool} do; "
                "make them anew in float32, or leave these examples out."
            )
        self.norms = np.sqrt(squares.sum(axis=1))  # before normalisation
        self._row_scale = _inverse(self.norms) if normalize == "row" else np.ones(n_pool)
        scales = _inverse(np.sqrt(squares.mean(axis=0))) if normalize == "snapshot" else np.ones(n_blocks)
        self._column_scale = np.repeat(scales, dim // n_blocks)
        self._mean = np.zeros(dim)  # for `take` on the next line
        self._mean = sum((self.take(part).sum(axis=0) for part in _parts(n_pool, dim)), np.zeros(dim)) / n_pool
        self.squares = np.concatenate([np.square(self.take(part)).sum(axis=1) for part in _parts(n_pool, dim)])
        # What is a tie: equal texts' gradients differ by float32 rounding, and entries of a K made in passes are
        # rounded in proportion to a row with the mean times one without.
        spread = float(self.squares.mean())
        self.size = float(np.sqrt(spread + self._mean @ self._mean))  # of a row as it is compared, but with the mean
        self.slack = 1e-11 * self.size**2 + (0 if whole_gram else 1e-7 * self.size * spread**0.5)
        self._whole = None
        if whole_gram:
            cuts = (self.take(slice(None), columns) for columns in _parts(dim, n_pool))
            self._whole = sum((cut @ cut.T for cut in cuts), np.zeros((n_pool, n_pool)))

    def take(self, which: slice | list[int], columns: slice = slice(None)) -> FloatArray:
        taken = np.array(self._rows[which, columns], dtype=np.float64)
        taken *= self._row_scale[which, None]
        taken *= self._column_scale[columns]
        taken -= self._mean[columns]
        return taken

    def error(self, chosen: list[int]) -> float:
        cuts = (self.take(chosen[part]).sum(axis=0) for part in _parts(len(chosen), len(self._mean)))
        return float(np.linalg.norm(sum(cuts))) / len(chosen)

    def gram(self, which: list[int], soon: Sequence[int] = ()) -> FloatArray:
        """Return rows of K, `[len(which), n_pool]`; those of `soon` may be asked for next."""
        if self._whole is not None:
            return self._whole[which]
        if not self._known.keys() >= set(which):
            new = [j for j in dict.fromkeys([*which, *soon]) if j not in self._known]
            self._known |= zip(new, self._pass(new), strict=True)
        found = np.array([self._known[j] for j in which])
        self._known = {j: self._known[j] for j in list(self._known)[-CACHED:]}
        return found

    def _pass(self, which: list[int]) -> FloatArray:
        wanted = self.take(which)  # [n, dim]
        size = np.abs(wanted).max(axis=1, initial=0)
        size[size == 0] = 1
        # x_i.x_j = row_scale_i (g_i . column_scale x_j) - mean . x_j: the block g is multiplied as it lies in the
        # file. The right side is scaled to about 1, so that squares of tiny gradients do not vanish in float32.
        right = (wanted * self._column_scale / size[:, None]).astype(np.float32)
        found = np.empty((len(which), len(self._rows)))
        for part in _parts(len(self._rows), len(self._mean)):
            found[:, part] = (self._rows[part] @ right.T).T
        found *= size[:, None]
        found *= self._row_scale
        found -= (wanted @ self._mean)[:, None]
        return found


def _parts(n: int, width: int) -> Iterator[slice]:
    """Cut `n` rows of `width` numbers into blocks."""
    size = max(1, BLOCK // max(1, width))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _inverse(norms: FloatArray) -> FloatArray:
    return 1 / np.where(norms > 0, norms, 1)


def _greedy(pool: _Pool, kinds: Kinds, quotas: Kinds, farthest: bool) -> list[int]:
    products, room, chosen = np.zeros(len(kinds)), quotas.copy(), []  # s.x_j
    while room.any():
        scores = (2 * products + pool.squares) * (-1 if farthest else 1)
        scores[room[kinds] == 0] = np.inf
        scores[chosen] = np.inf
        chosen.append(_first(scores, pool.slack))
        room[kinds[chosen[-1]]] -= 1
        products += pool.gram(chosen[-1:])[0]
    return chosen


def _swap(pool: _Pool, kinds: Kinds, chosen: list[int], least_gain: float) -> tuple[list[int], float, int]:
    """Return what swaps within the classes make of `chosen`, its error, and how many there were."""
    rows, error = pool.gram(chosen), pool.error(chosen)  # [k, n_pool]
    for n_swaps in range(MOST_SWAPS):
        products = rows.sum(axis=0)
        out = pool.squares[chosen] - 2 * products[chosen]  # [k]
        best = _best_partner(rows, out, kinds, chosen) + pool.squares + 2 * products  # [n_pool]
        best[chosen] = np.inf
        new = _first(best, pool.slack)
        changes = np.where(kinds[chosen] == kinds[new], out - 2 * rows[:, new], np.inf)
        slot = _first(changes, pool.slack)
        swapped = [*chosen[:slot], new, *chosen[slot + 1 :]]
        expected = np.sqrt(max(0, error**2 + best[new] / len(chosen) ** 2))
        # From the rows themselves: rounding in K can neither add up nor let swaps go round in a circle.
        found = pool.error(swapped) if error - expected > least_gain else error
        if not error - found > least_gain:
            return chosen, error, n_swaps
        near = np.argpartition(best, min(PREFETCHED, len(best)) - 1)[:PREFETCHED]
        rows[slot] = pool.gram([new], near[np.isfinite(best[near])].tolist())[0]
        chosen, error = swapped, found
    return chosen, error, MOST_SWAPS


def _best_partner(rows: FloatArray, out: FloatArray, kinds: Kinds, chosen: list[int]) -> FloatArray:
    """Return for each row of the pool the least of out_a - 2 K_ac over the chosen `a` of its class, `[n_pool]`."""
    best, one, several = np.full(len(kinds), np.inf), np.empty(len(kinds)), bool(kinds.any())
    for row, least, index in zip(rows, out, chosen, strict=True):
        np.multiply(row, -2, out=one)
        one += least
        np.minimum(best, one, out=best, where=kinds == kinds[index] if several else True)
    return best


def _first(values: FloatArray, slack: float) -> int:
    return int(np.argmax(values <= values.min() + slack))


def _quotas(sizes: Kinds, k: int, rng: np.random.Generator | None) -> Kinds:
    """Share `k` among classes in rounds of one each, as far as they reach; lots decide who is in the last round."""
    shares = np.zeros_like(sizes)  # one class needs no rng
    while left := k - shares.sum():
        room = np.flatnonzero(shares < sizes)
        shares[room if rng is None or left >= len(room) else rng.permutation(room)[:left]] += 1
    return shares


def _draw(kinds: Kinds, quotas: Kinds, rng: np.random.Generator | None) -> list[int]:
    assert rng is not None, "asked for above"
    drawn = [rng.permutation(np.flatnonzero(kinds == kind))[:share] for kind, share in enumerate(quotas)]
    return rng.permutation(np.concatenate(drawn)).tolist()
