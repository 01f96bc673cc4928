"""The teacher is the running average of the student, which labels unlabelled inputs, with more for weak classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Averaging, Lesson
from kshot.core.objective_settings import Answers
from kshot.core.types import Example, FloatArray, Prediction, Task
from kshot.measures.calibration import LEAST_PAST, Calibration, calibrated
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge

RECENT = 128  # examples by which the average is calibrated
MOST_WEIGHT = 4.0  # of a class against the mean
LEAST_SURE = 0.7  # of a label, of a class that is known badly


class Known(NamedTuple):
    """What is known of the labelled past.

    Attributes:
        labels: The classes.
        share: Of each class among the labelled examples, with one more of each, `[n_labels]`.
        calibration: Of what the average says.
        confusion: How probable the average has found each class of examples that it had not learnt, by their own class;
            rows sum to 1, `[n_labels, n_labels]`.
    """

    labels: tuple[str, ...]
    share: FloatArray
    calibration: Calibration
    confusion: FloatArray


@dataclass(frozen=True)
class PseudoLabels(Teacher):
    """Let lessons be about unlabelled inputs that the running average of the trained weights is sure of.

    With the chance `inputs` a lesson is about an unlabelled input in place of its own example. The average is asked,
    its probabilities are calibrated on the past; where its answer c has at least the probability
    threshold x s_c / max s, and at least 0.7, it is learnt, if c was seen before. s_c is how probable the average has
    found class c for the examples of that class before they were learnt: the diagonal of its confusions, with one
    example more that could be any. A lesson of class c, labelled or not, counts
    ((1 - s_c) / f_c / sum over classes of 1 - s)^confusion times as much, 1/4 to 4 times, where f_c is the share of c:
    with 1, each class counts in proportion to how much of it is taken for others, however rare it is.

    In brackets a recipe can be named that labels, too: `self-training(random:k=16)`. Then q = (1 - expert) x (what the
    average says) + expert x (what the recipe says); it is asked as that of `distil` is.

    Attributes:
        decay: Of the running average, a step; a short one at first.
        threshold: The least probability of a label that is learnt, of the class that is known best.
        inputs: The chance that a lesson is about an unlabelled input.
        confusion: How strongly classes are weighed by what is confused; 0: all alike, with the same threshold.
        expert: How much the recipe in brackets counts.
        most: Unlabelled inputs that it is asked about for each example of the past.

    Source: an analogue in text of Grounded Teacher (2025), Context Aware Grounded Teacher for Source Free Object
    Detection; the average: Tarvainen and Valpola (2017), https://arxiv.org/abs/1703.01780; thresholds by class: Zhang
    et al. (2021), https://arxiv.org/abs/2110.08263.
    Differs: text classes instead of objects in images; confusions weigh and admit classes, and augment no images; the
    expert is mixed in, and is no loss of its own; source examples are the labelled past, which theirs does without.
    """

    decay: float = setting(0.99, above=0, least=0, most=0.999999)
    threshold: float = setting(0.95, least=0, most=1)
    inputs: float = setting(0.25, least=0, most=1)
    confusion: float = setting(1.0, least=0, most=4)
    expert: float = setting(0.5, least=0, most=1)
    most: int = setting(4, least=1, most=100_000)

    only_chooses = True
    replaces = True
    sees_average = True
    passes_on = True
    does_without = True
    uses_unlabelled = True

    def suits(self, task: Task) -> bool:
        """Return whether the task has a list of labels."""
        return task.kind == "classification"

    def obstacle(self, task: Task) -> str | None:
        """Return that there is nothing to label, where that is so."""
        if task.unlabelled:
            return None
        return "it learns from unlabelled inputs, and there are none: give some with --inputs FILE"

    @property
    def objective(self) -> Answers:
        """What is made small; the tuner's counts."""
        return Answers()

    @property
    def averaging(self) -> Averaging:
        """With a short memory at first."""
        return Averaging(self.decay)

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons, some about unlabelled inputs; see `kshot.methods.contracts.Teacher`."""
        known = [e for e in seen if e.id in knowledge.averaged]
        if len(known) < LEAST_PAST:
            return list(lessons)
        about = _known(known, [knowledge.averaged[e.id] for e in known])
        inputs = [e for e in knowledge.inputs if not knowledge.passed_on or e.id in knowledge.passed_on]
        places = [i for i in range(len(lessons)) if rng.random() < self.inputs]
        drawn = [inputs[i] for i in rng.permutation(len(inputs))[: len(places)]]
        labels = self._labelled(drawn, about, {e.output for e in seen}, knowledge) if drawn else []
        labelled = dict(zip(places, labels, strict=False))
        weights = class_weights(about.confusion, about.share, self.confusion).tolist()
        of_label = dict(zip(about.labels, weights, strict=True))
        found = []
        for i, lesson in enumerate(lessons):
            target = labelled.get(i) or lesson.target
            found.append(replace(lesson, target=target, weight=lesson.weight * of_label[target.output]))
        return found

    def _labelled(
        self, drawn: Sequence[Example], about: Known, seen: set[str], knowledge: Knowledge
    ) -> list[Example | None]:
        """Return the inputs with their labels; None where the average is not sure enough, or the label was not seen."""
        limits = thresholds(about.confusion, self.threshold) if self.confusion else self.threshold
        found: list[Example | None] = []
        for e, prediction in zip(drawn, knowledge.average(drawn), strict=True):
            probs = np.array(about.calibration.of(prediction).probs)
            if expert := knowledge.passed_on.get(e.id):
                probs = (1 - self.expert) * probs + self.expert * np.array(expert.probs)
            at = int(np.argmax(probs))
            is_sure = probs[at] >= np.broadcast_to(limits, probs.shape)[at] and about.labels[at] in seen
            found.append(replace(e, output=about.labels[at]) if is_sure else None)
        return found


def _known(examples: Sequence[Example], said: Sequence[Prediction]) -> Known:
    """Return what is known by what the average said of examples before they were learnt."""
    labels = said[0].candidates
    calibration = calibrated(said[-RECENT:], examples[-RECENT:], label_prior=True)[1]
    probs = np.array([calibration.of(p).probs for p in said])
    own = [labels.index(e.output) for e in examples]
    counts = np.bincount(own, minlength=len(labels)) + 1.0
    return Known(labels, counts / counts.sum(), calibration, confusion_of(probs, own))


def confusion_of(probs: FloatArray, own: Sequence[int]) -> FloatArray:
    """Return how probable each class is found for examples of each class, with one more that could be any.

    Args:
        probs: What was said of examples, `[n, n_labels]`.
        own: Their classes.

    Returns:
        Rows of own classes that sum to 1, `[n_labels, n_labels]`.
    """
    n_labels = probs.shape[1]
    of_class = np.eye(n_labels)[list(own)]  # [n, n_labels]
    return (of_class.T @ probs + 1 / n_labels) / (of_class.sum(axis=0)[:, None] + 1)


def class_weights(confusion: FloatArray, share: FloatArray, strength: float) -> FloatArray:
    """Return how much lessons of each class count, `[n_labels]`.

    With strength 1 a class counts, in all its lessons together, in proportion to how much of it is taken for others.
    """
    missed = 1 - np.diag(confusion)
    wanted = missed / missed.sum() / share  # 1 on average over lessons
    return np.clip(wanted**strength, 1 / MOST_WEIGHT, MOST_WEIGHT)


def thresholds(confusion: FloatArray, threshold: float) -> FloatArray:
    """Return the least probability of a label that is learnt, lower for classes that are known less, `[n_labels]`."""
    found = np.diag(confusion)
    return np.maximum(threshold * found / found.max(), min(LEAST_SURE, threshold))
