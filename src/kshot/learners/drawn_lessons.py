"""Lessons that are drawn from what was seen: of one label in place of a set, and of all examples in turn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kshot.core.label_sets import read, verdict, verdicts
from kshot.core.lessons import Lesson
from kshot.core.seeding import generator
from kshot.core.types import Example

HALF = 0.5
MOST_SUPPORT = 32  # examples in the anchor of guidance


def label_lessons(lessons: Sequence[Lesson], labels: Sequence[str], rng: np.random.Generator) -> list[Lesson]:
    """Return lessons about sets of labels as lessons about one label each, which is right as often as it is wrong.

    Yes is learnt against no, and a lesson costs what it does where one label is right, however many labels there are.
    That yes is as frequent as no in training is taken out by calibration (`kshot.measures.label_calibration`).
    """
    found = list[Lesson]()
    for lesson in lessons:
        right = read(lesson.target.output)
        wrong = [label for label in labels if label not in right]
        holds = bool(right) and (not wrong or rng.random() < HALF)
        some = right if holds else wrong
        label = some[int(rng.integers(len(some)))]
        target = replace(lesson.target, output=verdict(label, holds=holds))
        found.append(replace(lesson, target=target, learnt="last", among=verdicts([label])))
    return found


def covering(seen: Sequence[Example], k: int, *, seed: int, names: tuple[str | int, ...]) -> list[Lesson]:
    """Return lessons with k demonstrations that have each of (at most 32) seen examples in one of them."""
    order = generator(seed, "support", *names).permutation(len(seen))[:MOST_SUPPORT]
    parts = [[seen[j] for j in order[i : i + k + 1]] for i in range(0, len(order), k + 1)]
    return [Lesson(tuple(part[:-1]), part[-1]) for part in parts]
