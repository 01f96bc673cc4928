"""Ordered sets of demonstrations for a whole task, judged by the language model on examples that no set shows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import perm
from typing import Any, NamedTuple, Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.models import Capability
from kshot.core.types import Example, FloatArray
from kshot.methods.contracts import Composer
from kshot.methods.demonstration_value import bits_after
from kshot.methods.hands import ranked
from kshot.methods.selectors.ranked_sets import RanksSets
from kshot.taskmodel.taskmodel import TaskModel


def held_out_and_others(
    pool: Sequence[Example], k: int, most: int, *, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Return indices of a pool, drawn: those that are asked, and those that sets of `k` come from.

    At most `most` are asked, and at most half of what the sets leave, so that these can differ; with `k` examples or
    fewer, none. Of what was made none is asked, and of the others at most half, unless all of `pool` was made.
    """
    order: list[int] = rng.permutation(len(pool)).tolist()
    known = [i for i in order if not pool[i].is_made] or order
    n_asked = max(0, min(most, (len(pool) - k + 1) // 2, (len(known) + 1) // 2)) if k else 0
    asked = set(known[:n_asked])
    return known[:n_asked], [i for i in order if i not in asked]


def total_bits(
    sets: Sequence[Sequence[int]], held_out: Sequence[int], pool: Sequence[Example], model: TaskModel
) -> FloatArray:
    """Return the bits that the outputs of the held-out examples cost after each set, `[n_sets]`."""
    shown = [tuple(pool[i] for i in chosen) for chosen in sets]
    return bits_after(shown, [pool[i] for i in held_out], model).sum(axis=1)


class Arm(NamedTuple):
    """What can be tried: demonstrations in their order, and which of the composer's alternatives says them."""

    hand: tuple[int, ...]
    wording: int = 0


class Trials:
    """What arms cost on held-out examples: no arm is tried twice, and no more of them than are allowed.

    Attributes:
        k: Demonstrations in an arm.
        pool: All examples.
        held_out: Indices of those that are asked after every arm, and never shown.
        others: Indices of those that arms come from.
        model: Judges.
        wordings: The composer's alternatives.
        bits: What each arm has cost, a held-out example, in the order in which they were tried.
    """

    def __init__(
        self,
        k: int,
        pool: Sequence[Example],
        held_out: Sequence[int],
        others: Sequence[int],
        model: TaskModel,
        most: int,
    ):
        self.k, self.pool, self.held_out, self.others, self.model = k, pool, held_out, others, model
        self.wordings = model.composer.alternatives
        self.n_arms = perm(len(others), k) * len(self.wordings)
        self.bits: dict[Arm, float] = {}
        self._most = min(most, self.n_arms)

    @property
    def left(self) -> int:
        """How many arms can still be tried."""
        return self._most - len(self.bits)

    def all_arms(self) -> list[Arm]:
        """Return every arm there is, for those who can afford them."""
        return [Arm(hand, i) for hand in permutations(self.others, self.k) for i in range(len(self.wordings))]

    def drawn(self, n: int, *, rng: np.random.Generator) -> list[Arm]:
        """Return `n` arms drawn at random, each wording as often as others; repeats and those tried are left out."""
        wordings = [i % len(self.wordings) for i in rng.permutation(max(n, len(self.wordings))).tolist()][:n]
        drawn = [Arm(tuple(rng.permutation(self.others)[: self.k].tolist()), wording) for wording in wordings]
        return [arm for arm in dict.fromkeys(drawn) if arm not in self.bits]

    def run_random(self, n: int, *, rng: np.random.Generator) -> None:
        """Try random arms until `n` have been tried."""
        while len(self.bits) < n:
            self.run(self.drawn(n - len(self.bits), rng=rng))

    def run(self, arms: Sequence[Arm]) -> None:
        """Try arms, as many of them as are left."""
        new = [arm for arm in dict.fromkeys(arms) if arm not in self.bits][: self.left]
        for wording, composer in enumerate(self.wordings):
            own = [arm for arm in new if arm.wording == wording]
            if own:
                model = self.model if len(self.wordings) == 1 else replace(self.model, composer=composer)
                found = total_bits([arm.hand for arm in own], self.held_out, self.pool, model) / len(self.held_out)
                self.bits |= zip(own, found.tolist(), strict=True)

    def ranked(self) -> list[Arm]:
        """Return the arms with the best one's wording, the best first; further orders of a set stand last."""
        best = min(self.bits, key=self.bits.__getitem__)
        own = [arm for arm in self.bits if arm.wording == best.wording]
        hands = ranked([list(arm.hand) for arm in own], np.array([self.bits[arm] for arm in own]))
        return [Arm(tuple(hand), best.wording) for hand in hands]


@dataclass(frozen=True)
class SearchesOrderedSets(RanksSets):
    """Searches for the ordered set of demonstrations after which held-out examples of the past cost the fewest bits.

    Where the composer has `alternatives`, such as several instructions, an arm is a list and one of them.

    Attributes:
        evaluations: The most arms that are tried.
        queries: The most held-out examples, the same for every arm and never shown in one.
    """

    evaluations: int = setting(40, least=2, most=10_000)
    queries: int = setting(16, least=1, most=100_000)
    _pool: tuple[Example, ...] = state(())
    _model: TaskModel | None = state()
    _found: dict[tuple[int, int], list[Arm]] | None = state()  # by k and the draw that decides all others
    _rehearses: bool = state(False)

    needs = frozenset({Capability.SCORE})

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Remember pool and model: the search begins once `k` is known."""
        return replace(self, _pool=tuple(pool), _model=model, _found={})

    @property
    def n_tried(self) -> int:
        """How many lists are tried."""
        return self.evaluations

    def ranked(self, k: int, *, rng: np.random.Generator) -> list[list[int]]:
        """Return the lists that were tried with the wording of the best one."""
        return [list(arm.hand) for arm in self._arms(k, rng)]

    def wording(self, composer: Composer, k: int, *, rng: np.random.Generator) -> Composer:
        """Return the alternative that the best arm was tried with; the composer itself where nothing was tried."""
        best = self._arms(k, rng)[0]
        return composer.alternatives[best.wording] if best.wording >= 0 else composer

    def rehearsing(self) -> Self:
        """Return a selector that tries as many lists, all of them random."""
        return replace(self, _rehearses=True)

    @abstractmethod
    def search(self, trials: Trials, *, rng: np.random.Generator) -> Mapping[str, Any]:
        """Try arms until nothing is left or enough is known, and return what is to be noted of it."""

    def _arms(self, k: int, rng: np.random.Generator) -> list[Arm]:
        """Return the arms, the best first; one that is drawn, with the wording -1, where nothing can be held out."""
        seed = int(rng.integers(2**63))
        assert self._found is not None, "fit comes before select"
        if (k, seed) not in self._found:
            self._found[k, seed] = self._searched(k, np.random.default_rng(seed))
        return self._found[k, seed]

    def _searched(self, k: int, rng: np.random.Generator) -> list[Arm]:
        assert self._model is not None
        held_out, others = held_out_and_others(self._pool, k, self.queries, rng=rng)
        if not held_out:
            return [Arm(tuple(others[:k]), -1)]
        trials = Trials(k, self._pool, held_out, others, self._model, self.evaluations)
        if trials.left == trials.n_arms:
            trials.run(trials.all_arms())
            about = {}
        elif self._rehearses:
            trials.run_random(trials.left, rng=rng)
            about = {}
        else:
            about = self.search(trials, rng=rng)
        found = trials.ranked()
        if len(trials.wordings) > 1:
            about = {**about, "wording": found[0].wording}
        bits = [round(bits, 3) for bits in trials.bits.values()]
        noted = {"k": k, "n_pool": len(self._pool), "queries": len(held_out), "tried": len(bits), "bits": bits}
        self._model.note({"selector": type(self).__name__.lower(), **noted, **about})
        return found
