"""One ordered list of demonstrations for the task, found by evolution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kshot.core.fields import setting
from kshot.methods.selectors.ordered_sets import Arm, SearchesOrderedSets, Trials


@dataclass(frozen=True)
class Evolution(SearchesOrderedSets):
    """Change the best lists tried so far a little, again and again, and keep the best one.

    A child takes the list of the better of two of the `population` best arms and has one example replaced, or two
    change places, with equal chance; sometimes (1 in 4) the wording is drawn anew where the composer has several. As
    many lists are tried as by `ease`, by the same bits of the same held-out examples, without an encoder: this is what
    the bandit has to beat.

    Costs evaluations x queries scorings at each refit, 640 by default.

    Attributes:
        population: How many lists are drawn at random first, if so many are tried, and how many of the best can have
            children.

    Source: Wu et al. (2024), baseline Evo, https://arxiv.org/abs/2405.16122; the steady state of one child at a time:
    Real et al. (2019), Regularized Evolution, https://arxiv.org/abs/1802.01548.
    Differs: who stays is decided by the bits, not by age; no crossover.
    """

    population: int = setting(10, least=2, most=10_000)

    def search(self, trials: Trials, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Try random lists, then a child of two of the best at a time."""
        trials.run_random(min(self.population, self.evaluations), rng=rng)
        while trials.left:
            best = sorted(trials.bits, key=trials.bits.__getitem__)[: self.population]
            child = _changed(best[int(rng.integers(len(best), size=2).min())], trials, rng)
            while child in trials.bits:  # there are more arms than may be tried, and changes lead to every one of them
                child = _changed(child, trials, rng)
            trials.run([child])
        return {}


def _changed(arm: Arm, trials: Trials, rng: np.random.Generator) -> Arm:
    """Return an arm with one example replaced or two exchanged, perhaps in other words."""
    hand, wording = list(arm.hand), arm.wording
    unused = sorted(set(trials.others) - set(hand))
    if unused and (len(hand) < 2 or rng.random() < 0.5):
        hand[int(rng.integers(len(hand)))] = int(rng.choice(unused))
    elif len(hand) > 1:
        i, j = rng.choice(len(hand), 2, replace=False)
        hand[i], hand[j] = hand[j], hand[i]
    if len(trials.wordings) > 1 and rng.random() < 0.25:
        wording = int(rng.integers(len(trials.wordings)))
    return Arm(tuple(hand), wording)
