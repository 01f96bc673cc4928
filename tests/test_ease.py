"""Ordered sets that are searched: never more are tried than allowed, order counts, and the bandit beats chance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import kshot
from kshot.core.errors import UserError
from kshot.core.progress import Silence
from kshot.core.script import Piece, Script, UsualWording
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Query, Question, Task
from kshot.engine.load_model import load_model
from kshot.learners.demonstrations import chosen, fitted, worded
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.methods.contracts import Composer
from kshot.methods.selectors import ease as ease_file
from kshot.methods.selectors.best_of_n import BestOfN
from kshot.methods.selectors.ease import Ease
from kshot.methods.selectors.evolution import Evolution
from kshot.methods.selectors.reward_net import RewardNet
from kshot.methods.selectors.transport import transport_cost
from kshot.models.scripted import ScriptedModel
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

DIM, K = 32, 5
PLACES = np.array([0.4, 0.6, 0.8, 1.0, 1.4])  # what stands next to the question counts most
POOL = tuple(Example(f"item {i}", "ab"[i % 2], f"e{i}") for i in range(60))


class Planted:
    """An encoder and a model of one seed: how often an answer is right after a list is a function of its vector."""

    dim, task, composer = DIM, Task("planted", "classification", ()), UsualWording()

    def __init__(self, seed: int):
        rng = np.random.default_rng(1000 + seed)
        rows = rng.normal(size=(len(POOL), DIM))
        self.items = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.direction, self.seed = rng.normal(size=DIM), seed
        self.asked: list[tuple[str, ...]] = []
        self.notes: list[Any] = []
        self.said: list[str] = []
        self.progress = Telling(self.said)

    def n_cut(self, texts: Sequence[str]) -> int:
        return 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([self.vector([int(i) for i in re.findall(r"item (\d+)", text)]) for text in texts])
        return rows.astype(np.float32).reshape(len(texts), DIM)

    def vector(self, items: Sequence[int]) -> FloatArray:
        total = (PLACES[-len(items) :, None] * self.items[list(items)]).sum(axis=0)
        return total / np.linalg.norm(total)

    def truth(self, items: Sequence[int]) -> float:
        return float(1 / (1 + np.exp(-0.4 - 0.9 * self.vector(items) @ self.direction)))

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """An answer is right with the list's own probability; right ones cost 0 bits, wrong ones 1."""
        lists = dict.fromkeys(tuple(e.id for e in some) for some in shown)
        self.asked += lists
        truths = {ids: self.truth([int(i[1:]) for i in ids]) for ids in lists}
        pairs = [(tuple(e.id for e in some), query.id) for some, query in zip(shown, queries, strict=True)]
        return np.array([float(generator(self.seed, query, *ids).random() > truths[ids]) for ids, query in pairs])

    def note(self, values: Any) -> None:
        self.notes.append(values)


class Telling(Silence):
    """Keeps what is said."""

    def __init__(self, said: list[str]):
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


def found(selector: Any, planted: Any, seed: int = 0, k: int = K, pool: Sequence[Example] = POOL) -> list[int]:
    fit = selector.fit(pool, model=planted, rng=np.random.default_rng(seed))
    return fit.select(None, k, rng=np.random.default_rng(seed))


def quick(**settings: Any) -> Ease:
    return Ease(**{"evaluations": 16, "starts": 8, "candidates": 8, "kept": 4, "steps": 5, **settings})


@pytest.fixture
def planted(monkeypatch) -> Planted:
    one = Planted(0)
    monkeypatch.setattr(ease_file, "load_encoder", lambda name: one)
    return one


def test_the_bandit_is_better_than_the_best_of_as_many_random_lists(monkeypatch):
    """The row's own experiment, smaller: vectors of 32 numbers, 40 evaluations, no transport, 100 steps of training."""
    gains = []
    for seed in range(8):
        planted = Planted(seed)
        monkeypatch.setattr(ease_file, "load_encoder", lambda name, planted=planted: planted)
        ease = planted.truth(found(Ease(queries=28, candidates=50, steps=100), planted, seed))
        best = planted.truth(found(BestOfN(n=40, queries=28), planted, seed))
        gains.append(ease - best)
    print(np.round(gains, 3))
    assert np.mean(gains) > 0
    assert sum(gain > 0 for gain in gains) >= 6
