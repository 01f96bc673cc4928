"""Simulated answers: how often abstaining keeps its promise, and what share of queries is answered.

The answer at the quantile u of confidence, 0 the highest, is right with a probability that falls with u. Only the order
of confidences counts, so they need not be calibrated. Several recipes that are equally good answer the same queries,
with correlated confidences and answers; the one that has most of them right is chosen, as in a race.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, ndtr, ndtri

from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.measures.abstention import FIRST_SHARE, PastAnswers

RUNS = 2000
CORRELATION = 0.7  # of two recipes' confidences, and of what makes them right beyond these
SHAPES: dict[str, Callable[[FloatArray], FloatArray]] = {  # with the share that is right in all
    "two labels, 0.73": lambda u: expit(1.2 + 1.5 * ndtri(1 - u)),
    "two labels, 0.58": lambda u: expit(0.5 + 2.5 * ndtri(1 - u)),
    "two labels, 0.79": lambda u: expit(2 + 2 * ndtri(1 - u)),
    "four labels, 0.75": lambda u: 0.25 + 0.75 * expit(1 + 2 * ndtri(1 - u)),
    "sure or lost, 0.64": lambda u: np.where(u < 0.4, 0.99, 0.4),
}
SIZES = ((0.9, 100), (0.9, 300), (0.9, 600), (0.95, 300), (0.95, 600))  # precision and past answers
CHOSEN_FROM = (4, 9)
OTHER_SHARES = (0.1, 0.3, 0.4)  # where the search may begin
_FINE = (np.arange(50_000) + 0.5) / 50_000


def simulated(shape: str, n: int, n_recipes: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return the quantiles of confidence `[n, n_recipes]`, and which answers are right, as 1 and 0."""
    shared, own = np.sqrt(CORRELATION), np.sqrt(1 - CORRELATION)
    sure, luck = (
        ndtr(shared * rng.normal(size=(n, 1)) + own * rng.normal(size=(n, n_recipes))).clip(1e-12, 1 - 1e-12)
        for _ in range(2)
    )
    return sure, (luck < SHAPES[shape](sure)).astype(np.float64)


def measure(
    shape: str,
    precision: float,
    n: int,
    *,
    runs: int,
    n_recipes: int = 1,
    n_alike: int | None = None,
    first_share: float = FIRST_SHARE,
    seed: int = 0,
) -> dict[str, Any]:
    """Simulate records of answers, and look at what was promised from each.

    Args:
        shape: A name of `SHAPES`.
        precision: What is wanted.
        n: Past answers.
        runs: Simulated records.
        n_recipes: Of how many the best is taken.
        n_alike: By the root of which the level is divided; by default `n_recipes`.
        first_share: Where the search begins.
        seed: For the records.

    Returns:
        `kept`: the share of records whose threshold keeps the precision, or that promise nothing; `answered`: the mean
        share of queries that is answered; `possible`: the largest that keeps the precision; `share_held`: of the
        records that promise something, those whose interval holds the share that is answered.
    """
    rng = generator(seed, "abstention", shape, str(precision), n, n_recipes)
    right_above = np.cumsum(SHAPES[shape](_FINE)) / np.arange(1, len(_FINE) + 1)
    kept, shares, held = [], [], []
    for _ in range(runs):
        quantiles, right = simulated(shape, n, n_recipes, rng)
        chosen = int(right.sum(0).argmax())
        pairs = zip(1 - quantiles[:, chosen], right[:, chosen] == 1, strict=True)
        past = PastAnswers.of(((float(sure), bool(is_right)) for sure, is_right in pairs), n_alike or n_recipes)
        found = past.abstention(precision, first_share=first_share)
        if found.threshold is None:
            kept.append(True)
            shares.append(0.0)
            continue
        share = 1 - found.threshold
        kept.append(right_above[min(len(_FINE) - 1, int(share * len(_FINE)))] >= precision)
        shares.append(share)
        _, low, high = past.share(found)
        held.append(low <= share <= high)
    return {
        "kept": float(np.mean(kept)),
        "answered": float(np.mean(shares)),
        "possible": float(np.mean(np.maximum.accumulate((right_above >= precision)[::-1])[::-1])),
        "share_held": float(np.mean(held)) if held else None,
    }


def run(model: str = "none") -> dict[str, Any]:
    """Measure all shapes and sizes; no model is asked."""
    found = {}
    for shape in SHAPES:
        for precision, n in SIZES:
            found[f"{shape}: {precision} by {n}"] = measure(shape, precision, n, runs=RUNS)
        for n_recipes in CHOSEN_FROM:
            name = f"{shape}: 0.9 by 300, chosen from {n_recipes}"
            for how, n_alike in (("", n_recipes), (", level undivided", 1), (", level divided by it", n_recipes**2)):
                found[name + how] = measure(shape, 0.9, 300, runs=RUNS, n_recipes=n_recipes, n_alike=n_alike)
        for first_share in OTHER_SHARES:
            name = f"{shape}: 0.9 by 300, the search begins at {first_share}"
            found[name] = measure(shape, 0.9, 300, runs=RUNS, first_share=first_share)
    return found
