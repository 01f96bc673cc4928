"""Demonstrations that are near to the query and far from each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.fields import setting, state
from kshot.core.types import Example, FloatArray, Question
from kshot.encoders.encoder import Encoder, load_encoder
from kshot.methods.contracts import Selector
from kshot.methods.embeds import Embeds
from kshot.methods.selectors.nearest import nearest_last, question_text
from kshot.taskmodel.taskmodel import TaskModel

LEAST = 1e-6  # of what is left of an example; below, it is a copy of what was taken


@dataclass(frozen=True)
class Dpp(Embeds, Selector):
    """Take the `k` examples that are most probable together under a determinantal point process, the nearest last.

    p(set) is proportional to det of L over the set, with L_ij = q_i S_ij q_j, S_ij = (1 + cos(x_i, x_j)) / 2 and
    q_i = exp(cos(x_i, query) / (2 trade_off)): volumes are large where examples are near to the query and unlike each
    other. The set is found greedily, one example at a time, among the `depth` nearest. A millisecond for each query.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder.
        trade_off: Small: nearness decides; large: difference does.
        depth: So many of the nearest are looked at.

    Source: Ye et al. (2023), Compositional Exemplars for In-context Learning, section 3,
    https://arxiv.org/abs/2302.05698; the greedy search: Chen, Zhang and Zhou (2018),
    https://arxiv.org/abs/1709.05135.
    Differs: MiniLM as it is, nothing is learnt (their baseline TopK-DPP).
    """

    multi_label = True

    trade_off: float = setting(0.1, above=0)
    depth: int = setting(100, least=1, most=1_000_000)
    _encoder: Encoder | None = state()
    _embeddings: NDArray[np.float64] | None = state()

    per_query = True

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Embed the pool's inputs with their contexts, [n_pool, dim]."""
        encoder = load_encoder(self.encoder)
        return replace(self, _encoder=encoder, _embeddings=encoder.embed([e.text for e in pool]).astype(np.float64))

    def select(self, question: Question | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return the indices of `k` examples, the nearest last."""
        assert self._embeddings is not None, "fit comes before select"
        assert self._encoder is not None
        near = np.round(self._embeddings @ self._encoder.embed([question_text(question, "dpp")])[0], 9)  # [n_pool]
        looked_at = nearest_last(near, max(k, self.depth))[::-1]
        rows = self._embeddings[looked_at]
        picks = greedy_map((1 + rows @ rows.T) / 2, near[looked_at] / (2 * self.trade_off), k)
        chosen = [looked_at[i] for i in picks]
        return sorted(chosen, key=lambda i: (near[i], -i))


def greedy_map(likeness: FloatArray, log_quality: FloatArray, k: int) -> list[int]:
    """Return `k` rows, each the one that makes det(q_i S_ij q_j) over those taken largest; ties go to the first.

    That is the one with the largest 2 log q_i + log r_i, with r_i what is left of S_ii by those taken (Cholesky). Where
    no row adds to the volume any more, the first ones that are left follow.

    Args:
        likeness: S, `[n, n]`, with ones on its diagonal.
        log_quality: Of each row, `[n]`.
        k: How many.
    """
    n = len(likeness)
    left, parts, picks = np.diag(likeness).copy(), np.zeros((0, n)), list[int]()
    while len(picks) < min(k, n) and (free := left > LEAST).any():
        gains = 2 * log_quality + np.log(np.where(free, left, 1))
        best = int(np.argmax(np.where(free, np.round(gains, 9), -np.inf)))
        own = (likeness[best] - parts.T @ parts[:, best]) / np.sqrt(left[best])  # a row of the Cholesky factor
        parts, left = np.vstack([parts, own]), left - own**2
        left[best] = 0
        picks.append(best)
    return [*picks, *[i for i in range(n) if i not in set(picks)][: min(k, n) - len(picks)]]
