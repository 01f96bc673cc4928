"""Dialogues of the loop `hints`, learnt by small networks: what is gained from turn to turn, and by what."""

import numpy as np
import pytest

import planted_talk as planted
from kshot.core.types import Example, Task
from kshot.methods.loops.hints import _ATTEMPT, Hints
from kshot.methods.roles import Scripted, Speaker
from kshot.taskmodel.taskmodel import TaskModel
from taught_network import COLOURS, FILLERS, KEYS, taught
from word_network import word_engine

CODES = dict(zip(COLOURS, FILLERS, strict=True))  # a hint says which colour without its name
CHOICES = f"Answer with one of these: {', '.join(COLOURS)}. "


def boxes(seed: int, n: int) -> Task:
    """Whatever is asked, the answer is drawn: nothing but a hint can tell it."""
    rng = np.random.default_rng(seed)
    rows = tuple(Example(str(rng.choice(KEYS)), str(rng.choice(COLOURS)), f"{seed}-{i}") for i in range(n))
    return Task("boxes", "classification", rows, labels=COLOURS)


def informed(request: str) -> str:
    return CODES[request.split("The right answer is ")[1].split(".")[0]]


def shuffled(request: str) -> str:
    right = request.split("The right answer is ")[1].split(".")[0]
    return str(np.random.default_rng(len(request) + sum(map(ord, request))).choice(
        [CODES[colour] for colour in COLOURS if colour != right]
    ))  # fmt: skip


def dialogues(seed: int, n: int) -> list[Example]:
    """What the loop keeps of a student who guesses: dialogues of one wrong try and one hint, which end well."""
    rng = np.random.default_rng(seed)
    guess = Scripted(lambda request: str(rng.choice(COLOURS)))
    loop = Hints(turns=2, episodes=n, calls=9 * n, teacher="model").played_by(student=guess, teacher=Scripted(informed))
    made, _ = planted.model(boxes(seed, n))
    return list(loop.run(made.task.train, model=made, rng=np.random.default_rng(seed)).demonstrations)


def network(lessons: list[Example]):
    """A network that has learnt the answers that lessons end with, after what was said before."""

    def write(rng):
        one = lessons[int(rng.integers(len(lessons)))]
        talk = f"{one.explanation}\n" if one.explanation else ""
        asked = _ATTEMPT.format(instruction="", question=one.input, talk=talk, choices=CHOICES)
        return (asked, False), (f" {one.output}\n\n", True)

    return taught(word_engine(), write, steps=150, batch=16, lr=2e-3)


def solved(engine, teacher, n: int = 80) -> list[float]:
    task = boxes(77, n)
    model, notes = planted.model(task)
    student = Speaker(TaskModel.for_task(task, engine))
    loop = Hints(turns=2, episodes=n, calls=9 * n, length=4, teacher="model")
    loop.played_by(student=student, teacher=Scripted(teacher)).run(
        task.train, model=model, rng=np.random.default_rng(0)
    )
    return notes[0]["solved_by_turn"]


@pytest.mark.slow
def test_who_has_learnt_dialogues_gains_from_hints_and_who_has_learnt_answers_does_not():
    kept = dialogues(1, 600)
    assert len(kept) > 60
    single = [Example(e.input, e.output, e.id) for e in boxes(2, len(kept)).train]
    by_dialogues, by_answers = network(kept), network(single)
    learnt, misled, plain = solved(by_dialogues, informed), solved(by_dialogues, shuffled), solved(by_answers, informed)
    slope = {name: row[1] - row[0] for name, row in (("learnt", learnt), ("misled", misled), ("plain", plain))}
    assert slope["learnt"] > slope["plain"] + 0.3
    assert slope["learnt"] > slope["misled"] + 0.3
