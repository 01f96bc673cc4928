"""Simulated races: how often the best recipe is dropped, what a race costs, and the regret of rules of choice.

Recipes have learning curves that cross: flat ones, those that rise within the first examples, and those that learn
slowly. An answer is right where its margin is above 0: m = s (z(a) + sqrt(r) difficulty + sqrt(1 - r) own noise), where
a is the accuracy at that point of the curve, z the normal quantile, and the difficulty is shared by all recipes. A
prediction of a recipe that trains costs what it has learnt since the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.special import expit, ndtri

from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.measures.curves import at_end
from kshot.race.halving import dropped, slices
from kshot.race.ranking import SHRINK, SHRINK_LEARNING, smoothed
from kshot.race.stream import spread

RACES, CLEAR = 2000, 0.05  # a best recipe is one that is better than all others by 5 points
SIZES = ((6, 100), (12, 100), (6, 300), (12, 300))  # recipes and examples, all of which are predicted
LIMITED = ((8, 400, 100), (8, 1000, 100), (8, 400, 40), (8, 1000, 40))  # recipes, examples and predictions
BENDS = (1.0, 1.25, 1.5, 2.0)
TRAINING = 2.0  # tokens for each example that is learnt


@dataclass(frozen=True)
class Stream:
    """A simulated stream.

    Attributes:
        known: How many examples were known at each of the m predictions.
        n_end: Examples in the stream.
        margins: `[n_recipes, m]` in nats; right where they are above 0.
        final: Each recipe's accuracy after the stream.
        costs: `[n_recipes, m]`, in tokens; 0 for recipes that ask no model.
        learns: Whether each recipe keeps learning.
    """

    known: Sequence[int]
    n_end: int
    margins: FloatArray
    final: FloatArray
    costs: FloatArray
    learns: FloatArray

    @property
    def scores(self) -> FloatArray:
        """Right and wrong as 1 and 0."""
        return (self.margins > 0).astype(np.float64)

    @property
    def bits(self) -> FloatArray:
        """Of the right one of two answers, with a little of the uniform mixed in."""
        return -np.log2(0.99 * expit(self.margins) + 0.005)

    @property
    def is_clear(self) -> bool:
        """Whether one recipe is the best by 5 points or more."""
        second, best = np.sort(self.final)[-2:]
        return best - second >= CLEAR


def simulated(rng: np.random.Generator, n_recipes: int, n: int, known: Sequence[int] | None = None) -> Stream:
    """Draw a stream of `n` examples, of which those at the places `known` are predicted; by default all."""
    known = range(n) if known is None else known
    m = len(known)
    kinds = rng.choice(["flat", "prompt", "learner"], size=n_recipes, p=[0.25, 0.45, 0.3])
    end = np.clip(rng.normal(rng.uniform(0.45, 0.85), 0.08, size=n_recipes), 0.2, 0.97)
    at, curves = np.arange(n + 1), np.empty((n_recipes, n + 1))
    for i, kind in enumerate(kinds):
        if kind == "prompt":
            lacking = rng.uniform(0, 0.25) * np.exp(-at / rng.uniform(4, 16))
        else:
            power = (1 + at / 4) ** -rng.uniform(0.3, 0.8)
            lacking = rng.uniform(0.1, 0.45) * (power - power[-1]) / (power[0] - power[-1])
        curves[i] = end[i] - lacking * (kind != "flat")
    curves = np.clip(curves, 0.1, 0.98)
    shared = rng.uniform(0.3, 0.7)
    noise = np.sqrt(shared) * rng.normal(size=m) + np.sqrt(1 - shared) * rng.normal(size=(n_recipes, m))
    sharpness = rng.uniform(1, 3) * np.exp(rng.normal(0, 0.3, size=n_recipes))
    prices = {"flat": [0.1], "prompt": [0.2, 1.0], "learner": [0.0, 1.0, TRAINING]}
    costs = np.array([rng.choice(prices[kind]) for kind in kinds])[:, None] * np.ones(m)
    costs[costs[:, 0] == TRAINING] *= np.diff(known, prepend=-1) * m / n
    margins = sharpness[:, None] * (ndtri(curves[:, known]) + noise)
    return Stream(known, n, margins, curves[:, -1], costs, kinds == "learner")


def race(stream: Stream) -> tuple[list[int], float]:
    """Return who comes to the end, and the cost as a share of running all to the end."""
    n, racing, cost = stream.margins.shape[1], list(range(len(stream.final))), 0.0
    for start, stop in slices(n):
        cost += float(stream.costs[racing, start:stop].sum())
        if stop < n and len(racing) > 1:
            bits = {str(i): stream.bits[i, :stop].tolist() for i in racing}
            free = {str(i) for i in racing if not stream.costs[i].any()}
            out = dropped(bits, stream.known[:stop], stream.n_end, free=free)
            racing = [i for i in racing if str(i) not in out]
    return racing, cost / float(stream.costs.sum())


def values(stream: Stream) -> dict[str, FloatArray]:
    """Return what each rule of choice compares, `[n_recipes]`."""
    scores, margins = stream.scores, stream.margins
    n = scores.shape[1]
    smooth = np.array([smoothed(m, float(m.std())) for m in margins])
    weights = np.arange(1, n + 1)
    split = n - n // 5
    return {
        "mean": scores.mean(axis=1),
        "bits": -stream.bits.mean(axis=1),
        "linear weights": scores @ weights / weights.sum(),
        "last third": scores[:, -(n // 3) :].mean(axis=1),
        "80/20 split": scores[:, split:].mean(axis=1),
        "smoothed": smooth.mean(axis=1),
        "curve": _ends(stream, scores),
        "smoothed curve": _ends(stream, smooth),
    }


def _ends(stream: Stream, rows: FloatArray) -> FloatArray:
    """Return where the curves of rows `[n_recipes, m]` lead, as `kshot.race.ranking.Evidence` says."""
    shrinks = np.where(stream.learns, SHRINK_LEARNING, SHRINK) * rows.shape[1]
    return np.array(
        [at_end(row, stream.known, stream.n_end, shrink) for row, shrink in zip(rows, shrinks, strict=True)]
    )


@dataclass
class Tally:
    """What ways of racing made of the same streams.

    Attributes:
        false: Of each race with a clear best recipe, whether it was dropped.
        costs: Of each race, relative to running all to the end.
        losses: Of each race, the accuracy lost at the end by dropping, under the rule that kshot uses.
    """

    false: list[bool] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, stream: Stream, racing: Sequence[int], cost: float) -> None:
        """Count a race."""
        if stream.is_clear:
            self.false.append(int(np.argmax(stream.final)) not in racing)
        ends = values(stream)["smoothed curve"]
        self.losses.append(stream.final[np.argmax(ends)] - stream.final[max(racing, key=lambda i: ends[i])])
        self.costs.append(cost)

    @property
    def row(self) -> dict[str, float]:
        """The means: `false_drops` of `clear_races`, `cost`, `loss_points`."""
        return {
            "false_drops": float(np.mean(self.false)),
            "clear_races": len(self.false),
            "cost": float(np.mean(self.costs)),
            "loss_points": 100 * float(np.mean(self.losses)),
        }


def measure(n_recipes: int, n: int, *, races: int, known: Sequence[int] | None = None, seed: int = 0) -> dict[str, Any]:
    """Run simulated races of `n` examples, of which those at the places `known` are predicted; by default all.

    Returns:
        Beside what `Tally` says, `regret_points`: of each rule, without a race.
    """
    rng, tally = generator(seed, "races", n_recipes, n), Tally()
    regrets: dict[str, list[float]] = {}
    for _ in range(races):
        stream = simulated(rng, n_recipes, n, known)
        for rule, found in values(stream).items():
            regrets.setdefault(rule, []).append(stream.final.max() - stream.final[np.argmax(found)])
        if stream.costs.any():
            tally.add(stream, *race(stream))
    points = {rule: round(100 * float(np.mean(v)), 2) for rule, v in regrets.items()}
    return {"recipes": n_recipes, "n": n, **tally.row, "regret_points": points}


def measure_limited(n_recipes: int, n: int, limit: int, *, races: int) -> dict[str, Any]:
    """Measure ways of choosing the `limit` of `n` examples that are predicted: the first ones, or spread over all."""
    ways = {"the first": range(limit), **{f"spread, bend {b:g}": spread(n, limit, bend=b) for b in BENDS}}
    found = {name: measure(n_recipes, n, races=races, known=known) for name, known in ways.items()}
    for row in found.values():
        row["regret_points"] = row["regret_points"]["smoothed curve"]
    return found


def measure_pruner(n_recipes: int, n: int, *, races: int) -> dict[str, Any]:
    """Run the same simulated races by halving and with Optuna's WilcoxonPruner."""
    from kshot.bench.wilcoxon_pruner import pruned

    rng, ways = generator(0, "races", n_recipes, n), {"halving": Tally(), "pruner": Tally()}
    for _ in range(races):
        stream = simulated(rng, n_recipes, n)
        if stream.costs.any():
            ways["halving"].add(stream, *race(stream))
            ways["pruner"].add(stream, *pruned(stream.bits, stream.costs, [stop for _, stop in slices(n)]))
    return {name: tally.row for name, tally in ways.items()}


def run(model: str = "none") -> dict[str, Any]:
    """Measure all sizes; no model is asked. The pruner is left out where Optuna is not installed, which is said."""
    found: dict[str, Any] = {f"{k} recipes, {n} examples": measure(k, n, races=RACES) for k, n in SIZES}
    for k, n, limit in LIMITED:
        found[f"{k} recipes, {limit} of {n} examples"] = measure_limited(k, n, limit, races=RACES // 2)
    if find_spec("optuna") is None:
        return found | {"left out": "Optuna's WilcoxonPruner; pip install 'kshot[bench]'"}
    compared = {f"{k} recipes, {n} examples": measure_pruner(k, n, races=RACES // 4) for k, n in SIZES}
    return found | {"Optuna's WilcoxonPruner": compared}
