"""Small networks that play dialogues and learn by who came to the answer: what they gain, by turn, and by what."""

from collections.abc import Callable

import numpy as np
import pytest

import kshot.methods.loops.hints
import kshot.methods.teachers.grpo
from kshot.core.lessons import Lesson
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Task
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.teachers.grpo import Grpo, advantages
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from taught_network import COLOURS, FILLERS, KEYS
from test_hints_learnt import CODES, boxes
from word_network import word_engine

N, N_JUDGED = 40, 60


def coded(attempt: str, answer: str) -> str:
    """A hint that says which colour without its name."""
    return CODES[answer]


def meanings(seed: int, n: int) -> Task:
    """The last word of what is asked tells the answer, the same for every seed."""
    rng = np.random.default_rng(seed)
    asked = [(str(rng.choice(FILLERS)), int(rng.integers(len(KEYS)))) for _ in range(n)]
    rows = tuple(
        Example(f"{filler} {KEYS[i]}", COLOURS[i % len(COLOURS)], f"{seed}-{number}")
        for number, (filler, i) in enumerate(asked)
    )
    return Task("meanings", "classification", rows, labels=COLOURS)


def solved(learner: TrainedLearner, task: Task, turns: int) -> list[float]:
    """The share of two dialogues about each new question that are solved by each turn; tries are drawn."""
    lessons = [Lesson((), e) for e in task.train]
    knowledge = learner._inquiry.knowledge(task.train, lessons, learner.prompted.prepare(()).model, 0)
    Grpo(group=2, turns=turns).lessons(lessons, task.train, step=0, rng=generator(0, "play"), knowledge=knowledge)
    right = learner._inquiry.tally()["right"]
    return (np.cumsum(right) / (2 * len(lessons))).round(3).tolist()


def other(attempt: str, answer: str) -> str:
    """A hint at the colour after the right one."""
    return CODES[COLOURS[(COLOURS.index(answer) + 1) % len(COLOURS)]]


def trained(
    make: Callable[[int, int], Task], how: str, turns: int, seed: int, judged_by: int | None = None
) -> tuple[list[float], list[float], TrainedLearner]:
    """What a network of random weights solves by each turn before and after it has played dialogues of `turns`."""
    task, judged, by = make(seed, N), make(seed + 1000, N_JUDGED), judged_by or turns
    recipe = parse_recipe(f"fine-tune:weights=full,batch=16,{how},teacher=grpo(turns={turns})", shots=1, raced=False)
    learner = TrainedLearner(recipe, Setup(task, TaskModel.for_task(task, word_engine(seed=seed)), seed))
    before = solved(learner, judged, by)
    learner._steps(task.train)
    return before, solved(learner, judged, by), learner


@pytest.fixture
def shuffling(monkeypatch):
    """Return what lets the rewards of a group belong to any of its dialogues."""

    def shuffle() -> None:
        rng = np.random.default_rng(0)

        def shuffled(rewards: list[float]) -> FloatArray:
            return rng.permutation(advantages(rewards))

        monkeypatch.setattr(kshot.methods.teachers.grpo, "advantages", shuffled)

    return shuffle


def slope(by_turn: list[float]) -> float:
    return by_turn[1] - by_turn[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_who_plays_learns_to_use_hints(seed, monkeypatch, shuffling):
    """In a world in which nothing but a hint can tell the answer, one of four.

    Neither does one who tries once alone, nor one whose rewards are shuffled; and it is the hints that it goes by.
    """
    monkeypatch.setattr(kshot.methods.loops.hints, "rule_hint", coded)
    how = "lr=5e-4,steps=100"
    before, after, learner = trained(boxes, how, 2, seed)
    _, once, _ = trained(boxes, how, 1, seed, judged_by=2)
    monkeypatch.setattr(kshot.methods.loops.hints, "rule_hint", other)
    misled = solved(learner, boxes(seed + 1000, N_JUDGED), 2)
    monkeypatch.setattr(kshot.methods.loops.hints, "rule_hint", coded)
    shuffling()
    _, shuffled, _ = trained(boxes, how, 2, seed)
    assert after[1] > max(before[1], shuffled[1]) + 0.3
    assert slope(after) > max(slope(before), slope(once), slope(misled)) + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_who_tries_once_learns_to_answer_at_once(seed, shuffling):
    """Without hints, and not by rewards that are shuffled; of what is asked some has not been tried."""
    before, after, _ = trained(meanings, "lr=5e-4,steps=160", 1, seed)
    shuffling()
    _, shuffled, _ = trained(meanings, "lr=5e-4,steps=160", 1, seed)
    assert after[0] > max(before[0], shuffled[0]) + 0.3
