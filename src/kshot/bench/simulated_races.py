"""Simulated races: how often the best recipe is dropped, what a race costs, and the regret of rules of choice.

Recipes have learning curves that cross: flat ones, those that rise within the first examples, and those that learn
slowly. An answer is right where its margin is above 0: m = s (z(a) + sqrt(r) difficulty + sqrt(1 - r) own noise), where
a is the accuracy at that point of the curve, z the normal quantile, and the difficulty is shared by all recipes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtri

from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.measures.curves import at_end
from kshot.race.halving import dropped, slices
from kshot.race.ranking import SHRINK, smoothed

RACES, CLEAR = 2000, 0.05  # a best recipe is one that is better than all others by 5 points
FIRST = ((6, 100), (12, 100), (6, 300), (12, 300))  # recipes and examples


@dataclass(frozen=True)
class Stream:
    """A simulated stream.

    Attributes:
        margins: `[n_recipes, n]` in nats; right where they are above 0.
        final: Each recipe's accuracy after the stream.
        costs: Tokens a row; 0 for recipes that ask no model.
    """

    margins: FloatArray
    final: FloatArray
    costs: FloatArray

    @property
    def scores(self) -> FloatArray:
        """Right and wrong as 1 and 0."""
        return (self.margins > 0).astype(np.float64)

    @property
    def bits(self) -> FloatArray:
        """Of the right one of two answers, with a little of the uniform mixed in."""
        return -np.log2(0.99 * expit(self.margins) + 0.005)


def simulated(rng: np.random.Generator, n_recipes: int, n: int) -> Stream:
    """Draw a stream."""
    kinds = rng.choice(["flat", "prompt", "learner"], size=n_recipes, p=[0.25, 0.45, 0.3])
    end = np.clip(rng.normal(rng.uniform(0.45, 0.85), 0.08, size=n_recipes), 0.2, 0.97)
    known, curves = np.arange(n + 1), np.empty((n_recipes, n + 1))
    for i, kind in enumerate(kinds):
        if kind == "prompt":
            lacking = rng.uniform(0, 0.25) * np.exp(-known / rng.uniform(4, 16))
        else:
            power = (1 + known / 4) ** -rng.uniform(0.3, 0.8)
            lacking = rng.uniform(0.1, 0.45) * (power - power[-1]) / (power[0] - power[-1])
        curves[i] = end[i] - lacking * (kind != "flat")
    curves = np.clip(curves, 0.1, 0.98)
    shared = rng.uniform(0.3, 0.7)
    noise = np.sqrt(shared) * rng.normal(size=n) + np.sqrt(1 - shared) * rng.normal(size=(n_recipes, n))
    spread = rng.uniform(1, 3) * np.exp(rng.normal(0, 0.3, size=n_recipes))
    prices = {"flat": [0.1], "prompt": [0.2, 1.0], "learner": [0.0, 1.0, 2.0]}
    costs = np.array([rng.choice(prices[kind]) for kind in kinds])
    return Stream(spread[:, None] * (ndtri(curves[:, :n]) + noise), curves[:, -1], costs)


def race(stream: Stream) -> tuple[list[int], float]:
    """Return who comes to the end, and the cost as a share of running all to the end."""
    n, racing, cost = stream.margins.shape[1], list(range(len(stream.final))), 0.0
    for start, stop in slices(n):
        cost += (stop - start) * float(stream.costs[racing].sum())
        if stop < n and len(racing) > 1:
            bits = {str(i): stream.bits[i, :stop].tolist() for i in racing}
            out = dropped(bits, n, free={str(i) for i in racing if not stream.costs[i]})
            racing = [i for i in racing if str(i) not in out]
    return racing, cost / max(1e-9, n * float(stream.costs.sum()))


def values(stream: Stream, rule: str) -> FloatArray:
    """Return what a rule of choice compares, `[n_recipes]`."""
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
        "curve": np.array([at_end(s, n, SHRINK * n) for s in scores]),
        "smoothed curve": np.array([at_end(s, n, SHRINK * n) for s in smooth]),
    }[rule]


RULES = ("mean", "bits", "linear weights", "last third", "80/20 split", "smoothed", "curve", "smoothed curve")


def measure(n_recipes: int, n: int, *, races: int, seed: int = 0) -> dict[str, Any]:
    """Run simulated races.

    Returns:
        `false_drops`: of races with a clear best recipe the share in which it is dropped; `cost`: relative to all
        recipes run to the end; `loss`: points lost at the end by dropping, under the rule that kshot uses; `regret` of
        each rule without a race, in points.
    """
    rng = generator(seed, "races", n_recipes, n)
    false, costs, losses = [], [], []
    regrets: dict[str, list[float]] = {rule: [] for rule in RULES}
    for _ in range(races):
        stream = simulated(rng, n_recipes, n)
        best, second = np.argsort(-stream.final)[:2]
        for rule in RULES:
            regrets[rule].append(stream.final[best] - stream.final[np.argmax(values(stream, rule))])
        if not stream.costs.any():
            continue
        racing, cost = race(stream)
        if stream.final[best] - stream.final[second] >= CLEAR:
            false.append(best not in racing)
        ends = values(stream, "smoothed curve")
        losses.append(stream.final[np.argmax(ends)] - stream.final[max(racing, key=lambda i: ends[i])])
        costs.append(cost)
    return {
        "recipes": n_recipes,
        "n": n,
        "false_drops": float(np.mean(false)),
        "clear_races": len(false),
        "cost": float(np.mean(costs)),
        "loss_points": 100 * float(np.mean(losses)),
        "regret_points": {rule: round(100 * float(np.mean(v)), 2) for rule, v in regrets.items()},
    }


def run(model: str = "none") -> dict[str, Any]:
    """Measure all sizes; no model is asked."""
    found = [measure(k, n, races=RACES) for k, n in FIRST]
    return {f"{row['recipes']} recipes, {row['n']} examples": row for row in found}
