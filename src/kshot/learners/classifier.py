"""Classifiers without a language model at work on a stream."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from math import exp
from typing import Any

import numpy as np
from scipy.special import logit

from kshot.core.errors import ModelError
from kshot.core.label_sets import SURE, having
from kshot.core.ledger import Ledger
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Prediction, Query, Question
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.learners.one_vs_rest import one_vs_rest
from kshot.learners.preparation import prepared
from kshot.measures.probabilities import each_by_itself, mixed
from kshot.methods.contracts import Classifier
from kshot.recipes.recipe import Recipe


class ClassifierLearner(Learner):
    """A classifier without a language model, fitted anew on the past of every query, and on what was made of it."""

    def __init__(self, recipe: Recipe, setup: Setup):
        self.recipe, self._task, self._seed = recipe, setup.task, setup.seed
        self._making = setup.model
        self._made: tuple[int, tuple[Example, ...]] = 0, ()  # of so many examples
        self._store = setup.store
        self._ledger = setup.model.ledger if setup.model else Ledger()

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; queries that share a past share the fit.

        One that does not learn is fitted once, and asked all at once.
        """
        predictions: list[Prediction] = []
        learns = self.recipe.part("classifier").learns
        for _, group in groupby(queries, key=lambda query: id(query.past) if learns else 0):
            same, began = list(group), time.perf_counter()
            classifier = self._fitted(same[0].past)
            fit_seconds = time.perf_counter() - began
            for some in [[query] for query in same] if learns else [same]:
                predictions += self._predicted(classifier, some, fit_seconds)
                fit_seconds = 0.0
                if progress:
                    progress(len(some))
        return predictions

    def _predicted(self, classifier: Any, queries: Sequence[Query], fit_seconds: float) -> list[Prediction]:
        """Predict queries together; they share the time and what a service takes, and the first takes the fit's."""
        if self.recipe.part("classifier").writes:
            return [self._open(classifier, query, 0.0 if i else fit_seconds) for i, query in enumerate(queries)]
        n, began, part = len(queries), time.perf_counter(), self._ledger.part()
        questions = [query.example.question for query in queries]
        found = self._said(classifier, part)(questions)
        seconds, tokens = (time.perf_counter() - began) / n, part.cost.tokens / n
        predictions = list[Prediction]()
        for question, row in zip(questions, found, strict=True):
            candidates, answer = self._task.candidates(question), None
            if self._task.is_multi_label:
                log_probs = logit(mixed(row)[:, 1])  # of no and yes
                probabilities = each_by_itself(log_probs)
                answer = having(probabilities > SURE, candidates)
            else:
                probabilities = mixed(_checked(row, len(candidates), self.recipe.name))
                log_probs = np.log(probabilities)
            predictions.append(
                Prediction(
                    example_id=question.id,
                    candidates=candidates,
                    log_probs=tuple(log_probs.tolist()),
                    probs=tuple(probabilities.tolist()),
                    answer=answer or candidates[int(np.argmax(probabilities))],
                    seconds=seconds,
                    fit_seconds=0.0 if predictions else fit_seconds,
                    tokens=tokens,
                )
            )
        return predictions

    def _open(self, classifier: Classifier, query: Query, fit_seconds: float) -> Prediction:
        """Return the answer to a question of an open task, and how probable the known one is."""
        example, question, began = query.example, query.example.question, time.perf_counter()
        known = (example.output,) if example.output else ()
        logs = tuple(classifier.log_prob(question, text) for text in known)
        if any(not log <= 0 for log in logs):
            raise ModelError(f"{self.recipe.name} must give log-probabilities, 0 at most; it gave {logs}")
        text = classifier.written(question) if query.wants_text else None
        seconds = time.perf_counter() - began
        return Prediction(
            question.id, known, logs, tuple(map(exp, logs)), text, seconds=seconds, fit_seconds=fit_seconds
        )

    def _said(self, classifier: Any, ledger: Ledger) -> Callable[[Sequence[Question]], list[FloatArray]]:
        """Return what says the probabilities of questions' answers."""
        return classifier if self._task.is_multi_label else classifier.asking(self._store, ledger).probabilities

    def _fitted(self, past: Sequence[Example]) -> Any:
        """Return the classifier that has learnt what is known; of sets of labels what all classifiers say."""
        classifier, known = self.recipe.part("classifier"), (*past, *self._made_of(past[: refit_point(len(past))]))
        if self._task.is_multi_label:
            return one_vs_rest(classifier, self._task, known, lambda: generator(self._seed, "fit", len(past)))
        return classifier.fit(self._task, known, rng=generator(self._seed, "fit", len(past)))

    def _made_of(self, known: Sequence[Example]) -> tuple[Example, ...]:
        """Return what the recipe's generator makes of the examples that are known; nothing without one."""
        if "generator" not in self.recipe.parts or self._making is None or not known:
            return ()
        if self._made[0] != len(known):
            self._made = len(known), prepared(self.recipe, known, self._making, seed=self._seed).made
        return self._made[1]

    def check(self, examples: Sequence[Example]) -> None:
        """Raise a UserError where a service cannot be asked; one that fails is out of the race when its turn comes."""
        if not self.recipe.part("classifier").learns:
            with suppress(ModelError):
                self._fitted(examples)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Keep all examples, and what is made of them: a classifier is fitted in no time whenever it is loaded."""
        pool = (*examples, *self._made_of(examples))
        return Fitted(self.recipe.without("generator"), self._task, self._seed, pool)


def _checked(row: FloatArray, n: int, name: str) -> FloatArray:
    """Return a classifier's probabilities, or raise a ModelError if they are none."""
    if np.shape(row) != (n,) or not np.isfinite(row).all() or (row < 0).any() or abs(row.sum() - 1) > 1e-6:
        raise ModelError(f"{name} must give {n} probabilities that sum to 1; it gave {np.asarray(row).tolist()}")
    return row
