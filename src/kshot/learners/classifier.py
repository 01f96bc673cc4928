"""Classifiers without a language model at work on a stream."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Prediction, Query
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.measures.probabilities import mixed
from kshot.methods.contracts import Classifier
from kshot.recipes.recipe import Recipe


class ClassifierLearner(Learner):
    """A classifier without a language model, fitted anew on the past of every query."""

    def __init__(self, recipe: Recipe, setup: Setup):
        self.recipe, self._task, self._seed = recipe, setup.task, setup.seed

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; queries that share a past share the fit."""
        predictions: list[Prediction] = []
        past, classifier = None, self.recipe.part("classifier")
        for query in queries:
            began = time.perf_counter()
            if query.past is not past:
                past = query.past
                classifier = self._fitted(past)
            ready = time.perf_counter()
            question = query.example.question
            candidates = self._task.candidates(question)
            probabilities = mixed(_checked(classifier.probabilities([question])[0], len(candidates), self.recipe.name))
            predictions.append(
                Prediction(
                    example_id=question.id,
                    candidates=candidates,
                    log_probs=tuple(np.log(probabilities).tolist()),
                    probs=tuple(probabilities.tolist()),
                    answer=candidates[int(np.argmax(probabilities))],
                    seconds=time.perf_counter() - ready,
                    fit_seconds=ready - began,
                )
            )
            if progress:
                progress(1)
        return predictions

    def _fitted(self, past: Sequence[Example]) -> Classifier:
        classifier = self.recipe.part("classifier")
        return classifier.fit(self._task, past, rng=generator(self._seed, "fit", len(past)))

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Keep all examples: a classifier is fitted in no time whenever it is loaded."""
        return Fitted(self.recipe, self._task, self._seed, tuple(examples))


def _checked(row: FloatArray, n: int, name: str) -> FloatArray:
    """Return a classifier's probabilities, or raise a ModelError if they are none."""
    if np.shape(row) != (n,) or not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > 1e-6:
        raise ModelError(f"{name} must give {n} probabilities that sum to 1; it gave {np.asarray(row).tolist()}")
    return row
