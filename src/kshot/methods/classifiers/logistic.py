"""Logistic regression over labels that are known in advance, of which some may not have been seen yet."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from kshot.core.locks import ONE_THREAD
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.methods.classifiers.majority import Majority

Classify = Callable[[Sequence[Question]], list[FloatArray]]


def fit_logistic(
    task: Task, examples: Sequence[Example], transformer: Any, *, C: float, rng: np.random.Generator
) -> Classify:
    """Fit a logistic regression on what `transformer` makes of the inputs with their contexts.

    A label that no example has gets probability 0 (the evaluation mixes in the uniform). Where fewer than two
    labels have been seen there is nothing to separate: the smoothed frequencies of `Majority` are predicted.

    Args:
        task: Whose labels the answer covers.
        examples: What to learn from; may be empty.
        transformer: A scikit-learn transformer from texts to features.
        C: Inverse strength of the L2 penalty, as in scikit-learn.
        rng: Passed on; the fit itself draws nothing.

    Returns:
        A function from questions to one array of probabilities [n_labels] for each.
    """
    from sklearn.linear_model import LogisticRegression  # here and not above: it takes a second to import
    from sklearn.pipeline import make_pipeline

    outputs = [e.output for e in examples]
    if len(set(outputs)) < 2:
        return Majority().fit(task, examples, rng=rng).probabilities
    # newton-cg ends 10 times nearer to the optimum than lbfgs in less time. One thread: the vectors are short
    # and BLAS threads that wait for each other on a busy machine made one fit take seconds instead of 10 ms.
    model = make_pipeline(transformer, LogisticRegression(C=C, solver="newton-cg", max_iter=1000))
    with ONE_THREAD, _thread_pools().limit(limits=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # with nearly as many labels as examples
        model.fit([e.text for e in examples], outputs)
    columns = [task.labels.index(label) for label in model.classes_]

    def classify(questions: Sequence[Question]) -> list[FloatArray]:
        probabilities = np.zeros((len(questions), len(task.labels)))
        if questions:
            probabilities[:, columns] = model.predict_proba([q.text for q in questions])
        return list(probabilities)

    return classify


@cache
def _thread_pools() -> Any:
    """Return the thread pools of this process, once scikit-learn has brought its own: to look for them takes long."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
