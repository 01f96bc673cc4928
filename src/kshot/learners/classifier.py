"""Classifiers without a language model at work on a stream."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.methods import Baseline
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Query, Task
from kshot.measures.probabilities import mixed


@dataclass
class BaselineLearner:
    """A classifier without a language model, fitted anew on the past of every query."""

    name: str
    baseline: Baseline
    task: Task
    seed: int

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; queries that share a past share the fit."""
        predictions: list[Prediction] = []
        past, classifier = None, self.baseline
        for query in queries:
            began = time.perf_counter()
            if query.past is not past:
                past = query.past
                classifier = self.baseline.fit(self.task, past, rng=generator(self.seed, "fit", len(past)))
            ready = time.perf_counter()
            raw = classifier.probabilities([query.example])[0]
            probabilities = mixed(raw)
            candidates = self.task.candidates(query.example)
            predictions.append(
                Prediction(
                    example_id=query.example.id,
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
