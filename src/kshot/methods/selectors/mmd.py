"""One set of demonstrations that is spread as the past is."""

from dataclasses import dataclass

import numpy as np

from kshot.core.types import FloatArray, Question
from kshot.methods.selectors.embedded_pool import EmbeddedPool


@dataclass(frozen=True)
class Mmd(EmbeddedPool):
    """Take the `k` examples with the least maximum mean discrepancy from the pool, the first pick last.

    MMD^2(S) = mean over S x S of K - 2 mean over S x pool of K + mean over pool x pool of K, with K_ij =
    exp(-|x_i - x_j|^2 / (2 s^2)) of the embeddings x, and s the median distance of two different texts. Each pick is
    the one that makes it least, so the first is the most typical example. Costs n_pool^2 numbers and n_pool x k
    operations: milliseconds, beside the embeddings.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder.

    Source: Gretton et al. (2012), A Kernel Two-Sample Test, https://jmlr.org/papers/v13/gretton12a.html; greedily:
    Kim, Khanna and Koyejo (2016), Examples are not Enough, Learn to Criticize,
    https://papers.nips.cc/paper/6300-examples-are-not-enough-learn-to-criticize-criticism-for-interpretability. A
    baseline of Wu et al. (2024), https://arxiv.org/abs/2405.16122.
    Differs: prototypes alone, no criticisms; near to the whole pool, not to a validation set.
    """

    multi_label = True

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return `k` indices, the first pick last; the question does not matter."""
        assert self._embeddings is not None, "fit comes before select"
        if not len(self._embeddings):
            return []
        return least_discrepancy(kernel_of(self._embeddings), k)[::-1]


def kernel_of(rows: FloatArray) -> FloatArray:
    """Return the Gaussian kernel of rows `[n, dim]` with the median distance as its width, `[n, n]`."""
    squares = (rows**2).sum(axis=1)
    distances = np.maximum(np.round(squares[:, None] + squares - 2 * rows @ rows.T, 9), 0)
    others = distances[distances > 0]
    return np.exp(-distances / (2 * np.median(others))) if len(others) else np.ones_like(distances)


def least_discrepancy(kernel: FloatArray, k: int) -> list[int]:
    """Return `k` rows of a kernel, `[n, n]`, each the one after which the discrepancy is least; ties go to the first.

    With c_i the mean of row i and n picks before, it is the i with the least 2 sum over the picks of K_ij + K_ii -
    2 (n + 1) c_i.
    """
    typical, taken, picks = kernel.mean(axis=1), np.zeros(len(kernel)), list[int]()
    for n in range(min(k, len(kernel))):
        cost = 2 * taken + np.diag(kernel) - 2 * (n + 1) * typical
        cost[picks] = np.inf
        best = int(np.argmin(np.round(cost, 9)))
        picks.append(best)
        taken += kernel[best]
    return picks
