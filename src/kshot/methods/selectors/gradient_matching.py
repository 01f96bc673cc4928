"""One set of demonstrations whose gradients match those of the whole pool."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import Any, Self

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting, state
from kshot.core.gradient_settings import OF, GradientSettings
from kshot.core.models import Capability
from kshot.core.types import Example
from kshot.methods.hands import different, filled, ranked
from kshot.methods.selectors.matching import NORMALIZATIONS, match, searches
from kshot.methods.selectors.ordered_sets import held_out_and_others, total_bits
from kshot.methods.selectors.ranked_sets import RanksSets
from kshot.taskmodel.taskmodel import TaskModel

PAPER: dict[str, Any] = {
    "of": "prefix",
    "snapshots": 11,
    "epochs": 10,
    "batch": 64,
    "lr": 1e-3,
    "warmup": 0.1,
    "first": "normal",
    "normalize": "none",
    "projection": 0,
    "candidates": 1,
}


@dataclass(frozen=True)
class GradientMatching(GradientSettings, RanksSets):
    """Choose `k` examples whose mean gradient is near the mean gradient of the pool, the model having the last word.

    Minimises |1/k sum over the chosen of g_i - 1/N sum over the pool of g_i|, with g_i the gradient of example i's
    loss with respect to the last block's weights, greedily, then by the best single swaps; again from random sets; and
    takes of these `candidates` the set, in its order, after which held-out examples cost the model the fewest bits.
    With `of=prefix` the gradients are those with respect to `tokens` trained vectors before the text, at `snapshots`
    steps of their training, one after the other. The choice is for the task, so all queries share the prompt's
    beginning, and can be carried to other models. The first pick stands first.

    Costs a pass over the pool, which is run backwards through the last block alone (with `of=prefix` epochs +
    snapshots whole ones), and candidates x queries scorings, at each refit (at 32, 64, … examples for k = 16), with the
    model that selectors ask; the search itself takes a second for 1000 examples.

    Attributes:
        normalize: "row" gives every example the same weight, "snapshot" every snapshot, "none" neither: then examples
            with small gradients are preferred, those that are easy already.
        restarts: More searches from random sets; the nearest counts.
        candidates: Of so many sets the model takes the one after which the outputs of `queries` held-out examples cost
            the fewest bits; 1 takes the set nearest to the mean. Where searches find the same set again, another order
            of it is tried instead. Several contexts are the best of them.
        queries: The most held-out examples, but at most half of what the demonstrations leave.
        orders: So many orders of each search's set are candidates: that of the picks, and others that are drawn.
        balanced: As equal numbers of each output as the pool allows.
        paper: The paper's own settings: a prefix, 10 epochs, batches of 64, lr 1e-3 after a warm-up of a tenth of the
            steps, vectors that begin at a standard deviation of 0.02, 11 snapshots, no normalisation, no candidates.

    On 100 training rows of TREC outside the pool 16 searches judged by 64 examples gave 69 % at k = 8 and 68 % at k =
    32, where 8 judged by 32 gave 55 % and 61 % (docs/results/selection.json, layer 0-variants, with normalize=row).

    Source: Zhang et al. (2025), https://arxiv.org/abs/2506.04579, and its official code.
    Differs: gradients of the last block instead of trained vectors, which costs a hundredth and does better (measured:
    docs/results/selection.md); several searches among which the model chooses. With `of=prefix`: smaller batches, fewer
    epochs and a larger learning rate, as pools are small; the last snapshot is kept (theirs drops it); the vectors
    stand after the token that begins a text; no warm-up.
    """

    of: str = setting("last-block", choices=OF)
    projection: int = setting(4096, least=0, most=1_000_000)
    normalize: str = setting("none", choices=NORMALIZATIONS)
    restarts: int = setting(0, least=0, most=10_000)
    candidates: int = setting(16, least=1, most=10_000)
    queries: int = setting(64, least=1, most=100_000)
    orders: int = setting(1, least=1, most=10_000)
    balanced: bool = False
    paper: bool = False
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()
    _seed: int = state(0)

    version = 2
    needs = frozenset({Capability.GRADIENTS})

    def __post_init__(self):
        defaults = {f.name: f.default for f in fields(self)}
        for name, value in PAPER.items() if self.paper else ():
            if getattr(self, name) not in (defaults[name], value):
                raise UserError(f"gradient-matching: paper=true sets {name} to {value}; leave {name} out.")
            object.__setattr__(self, name, value)
        super().__post_init__()
        if self.restarts and self.candidates > 1:
            raise UserError(
                f"gradient-matching:restarts must be 0 unless candidates=1, as each candidate is a restart; got "
                f"{self.restarts} and candidates={self.candidates}. Add candidates=1."
            )

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: where all examples are shown, no gradient is needed."""
        return replace(self, _pool=tuple(pool), _model=model, _seed=int(rng.integers(2**32)))

    @property
    def n_tried(self) -> int:
        """How many candidates there are."""
        return self.candidates

    def ranked(self, k: int, *, rng: np.random.Generator) -> list[list[int]]:
        """Return the candidates, the best first; one that is chosen by distance alone if there are no others."""
        if k == 0 or k >= len(self._pool):
            return [list(range(len(self._pool)))[:k]]
        assert self._model is not None, "fit comes before select"
        rows = self._model.gradients(self._pool, self.settings, seed=self._seed)
        held_out, others = list[int](), list(range(len(rows)))
        if self.candidates > 1:
            held_out, others = held_out_and_others(self._pool, k, self.queries, rng=rng)
            others = sorted(others)
        how: dict[str, Any] = {
            "normalize": self.normalize,
            "n_blocks": len(self.snapshot_steps(len(rows))),
            "groups": [self._pool[i].output for i in others] if self.balanced else None,
            "rng": rng,
        }
        if held_out:
            found = searches(rows[others], k, restarts=ceil(self.candidates / self.orders) - 1, **how)
            sets = [[others[i] for i in one.indices] for one in found]
            tried = filled(sets, self.candidates)
            tried = different(tried, [rng] * len(tried))
            bits = total_bits(tried, held_out, self._pool, self._model)
            best, hands = found[int(bits.argmin()) % len(found)], ranked(tried, bits)
            asked = {"candidate_bits": (bits / len(held_out)).round(3).tolist()}
        else:
            best, asked = match(rows, k, restarts=self.restarts, **how), {}
            hands = [list(best.indices)]
        noted = {name: value for name, value in asdict(best).items() if name != "indices"}
        self._model.note({"selector": "gradient-matching", "k": k, "n_pool": len(self._pool), **noted, **asked})
        return hands
