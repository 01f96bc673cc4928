"""Statistics of documents: the Zipf coefficient, and how alike two sets are by their divergence frontier."""

import numpy as np
from numpy.typing import NDArray

from kshot.core.types import FloatArray

Ints = NDArray[np.int64]
STEEP = 5.0  # what divergences are multiplied by before they are turned into 0 … 1
MIXTURES = 25  # between the two histograms
ROUNDS = 20  # of k-means


def zipf(tokens: Ints) -> FloatArray:
    """Return the Zipf coefficients of documents `[n, length]`, `[n]`.

    That is minus the slope of the line of least squares through log frequency by log rank, of all tokens that come.
    A document of one token alone has 0.
    """
    n, size = len(tokens), int(tokens.max()) + 1
    counts = np.zeros((n, size))
    np.add.at(counts, (np.arange(n)[:, None], tokens), 1)
    counts = -np.sort(-counts, axis=1)
    there = counts > 0
    x, y = np.log(np.arange(1, size + 1)) * there, np.log(np.where(there, counts, 1.0))
    of = there.sum(axis=1)
    top = (x * y).sum(1) - x.sum(1) * y.sum(1) / of
    below = (x**2).sum(1) - x.sum(1) ** 2 / of
    return -np.divide(top, below, out=np.zeros(n), where=of > 1)


def nearest_centres(points: FloatArray, k: int, rng: np.random.Generator) -> Ints:
    """Return the cluster of each point `[n, dim]`, 0 … k - 1, by k-means from `k` of the points."""
    centres = points[rng.permutation(len(points))[:k]]
    found = np.zeros(len(points), np.int64)
    for _ in range(ROUNDS):
        found = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        centres = np.array([points[found == i].mean(0) if (found == i).any() else c for i, c in enumerate(centres)])
    return found


def frontier(p: FloatArray, q: FloatArray) -> float:
    """Return how alike two histograms `[bins]` are: 1 where they are the same, near 0 where they share nothing.

    That is the area under exp(-c KL(q, r)), exp(-c KL(p, r)) for all mixtures r of p and q, with c = 5.

    Source: after MAUVE, Pillutla et al. (2021), https://arxiv.org/abs/2102.01454.
    """
    p, q = p / p.sum(), q / q.sum()
    x, y = [0.0], [1.0]
    for share in np.linspace(1, 0, MIXTURES + 2)[1:-1]:
        r = share * p + (1 - share) * q
        x.append(float(np.exp(-STEEP * _divergence(q, r))))
        y.append(float(np.exp(-STEEP * _divergence(p, r))))
    x, y = [*x, 1.0], [*y, 0.0]
    return sum((b - a) * (c + d) / 2 for a, b, c, d in zip(x, x[1:], y, y[1:], strict=False))


def _divergence(p: FloatArray, r: FloatArray) -> float:
    there = p > 0
    return float((p[there] * np.log(p[there] / r[there])).sum())
