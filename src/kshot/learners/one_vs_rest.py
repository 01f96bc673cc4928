"""Classifiers without a language model on sets of labels: one for each label, which learns whether it is right."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kshot.core.label_sets import ANSWERS, NO, YES, read
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.methods.contracts import Classifier


def one_vs_rest(
    classifier: Classifier, task: Task, examples: Sequence[Example], rng: Callable[[], np.random.Generator]
) -> Callable[[Sequence[Question]], list[FloatArray]]:
    """Fit a classifier for each label, and return what all of them say.

    Args:
        classifier: Before it has learnt.
        task: Of kind multi_label.
        examples: What is learnt; may be none.
        rng: Returns the same chance for each label.

    Returns:
        A function from questions to what is said of each, `[n_labels, 2]`: the probabilities of no and yes.

    Source: Rifkin and Klautau (2004), In defense of one-vs-all classification,
    https://www.jmlr.org/papers/v5/rifkin04a.html. Differs: labels do not compete, as any number of them can be right.
    """
    sets, asked = [read(e.output) for e in examples], replace(task, kind="classification", labels=ANSWERS, test=())
    fitted = list[Classifier]()
    for label in task.labels:
        own = [replace(e, output=YES if label in s else NO) for e, s in zip(examples, sets, strict=True)]
        fitted.append(classifier.fit(asked, own, rng=rng()))

    def said(questions: Sequence[Question]) -> list[FloatArray]:
        by_label = np.array([one.probabilities(questions) for one in fitted])  # [n_labels, n_questions, 2]
        return list(by_label.transpose(1, 0, 2))

    return said
