"""Small networks that play dialogues and learn by who came to the answer: what they gain, by turn, and by what."""

from typing import Any

import numpy as np
import pytest

import kshot.methods.loops.hints as hints
import kshot.methods.teachers.grpo as grpo
from kshot.core.lessons import Lesson
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.methods.teachers.grpo import Grpo
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel
from taught_network import COLOURS, FILLERS, KEYS
from test_hints_learnt import CODES, boxes
from word_network import word_engine


def coded(attempt: str, answer: str) -> str:
    """A hint says which colour without its name."""
    return CODES[answer]


def numbers(seed: int, n: int) -> Task:
    """Whatever is asked, the answer is drawn; hints by rules say which way a guess is wrong."""
    rng = np.random.default_rng(seed)
    rows = tuple(Example(str(rng.choice(KEYS)), str(rng.integers(1, 4)), f"{seed}-{i}") for i in range(n))
    return Task("numbers", "classification", rows, labels=("1", "2", "3"))


def meanings(seed: int, n: int) -> Task:
    """The last word of what is asked tells the answer."""
    rng = np.random.default_rng(seed)
    of = {key: COLOURS[i % len(COLOURS)] for i, key in enumerate(KEYS)}
    rows = []
    for i in range(n):
        key = str(rng.choice(KEYS))
        rows.append(Example(f"{rng.choice(FILLERS)} {key}", of[key], f"{seed}-{i}"))
    return Task("meanings", "classification", tuple(rows), labels=COLOURS)


def learner(task: Task, how: str, seed: int) -> TrainedLearner:
    recipe = parse_recipe(f"fine-tune:weights=full,{how}", shots=1, raced=False)
    return TrainedLearner(recipe, Setup(task, TaskModel.for_task(task, word_engine(seed=seed)), seed))


def solved(one: TrainedLearner, task: Task, turns: int) -> list[float]:
    """The share of new questions that are solved by each turn, with tries that are drawn."""
    lessons = [Lesson((), e) for e in task.train]
    ready = one.prompted.prepare(()).model
    knowledge = one._inquiry.knowledge(task.train, lessons, ready, 0)
    Grpo(group=2, turns=turns).lessons(lessons, task.train, step=0, rng=generator(0, "play"), knowledge=knowledge)
    right = one._inquiry.tally()["right"]
    return (np.cumsum(right) / (2 * len(lessons))).round(3).tolist()


def before_and_after(make: Any, n: int, how: str, turns: int, seed: int) -> list[list[float]]:
    one, judged = learner(make(seed, n), how, seed), make(seed + 1000, 60)
    found = [solved(one, judged, turns)]
    one._steps(one._base.task.train)
    return [*found, solved(one, judged, turns)]
