"""Steering at work on a stream: found anew whenever the past has doubled, on the past alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.steering import Steering
from kshot.core.types import Example, Prediction, Query
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup, refitted
from kshot.learners.preparation import prepared
from kshot.learners.prompted import PromptLearner
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

MOST_TRIED = 8  # answers that are looked at


def fitted_steering(recipe: Recipe, known: Sequence[Example], model: TaskModel, *, seed: int) -> Steering | None:
    """Return the steering that a recipe finds in examples; None where it has no steerer, or they are too few.

    Raises:
        ModelError: Under the steering the model's outputs are not numbers.
    """
    steerer = recipe.part("steerer")
    if steerer is None or len(known) < steerer.least:
        return None
    found = steerer.fit(known, model=model, rng=generator(seed, "steer", len(known)))
    found.check_finite()
    check_outputs(recipe.name, found, known[:MOST_TRIED], model)
    return found


def check_outputs(name: str, steering: Steering, examples: Sequence[Example], model: TaskModel) -> None:
    """Look at what a steered model says, and tell where the texts that it writes only repeat themselves.

    Raises:
        ModelError: Its outputs are not numbers.
    """
    remedy = "use a smaller strength, or let it be chosen"
    bits = model.bits_under([steering], examples)
    if not np.isfinite(bits).all():
        raise ModelError(f"{name}: under this steering the model's outputs are not numbers; {remedy}.")
    if not model.task.is_open:
        return
    prompts = [model.prompt((), e)[0] for e in examples]
    steered, bare = (a.generate(prompts) for a in (model.steered(steering), model))
    n, n_bare = (sum(repeats_itself(g.text) for g in some) for some in (steered, bare))
    if n > max(n_bare, len(examples) // 2):
        sample = next(g.text for g in steered if repeats_itself(g.text)).strip()[:40]
        model.progress.say(
            f"{name}: under this steering the model repeats itself on {n} of {len(examples)} inputs ({sample!r}; "
            f"without it on {n_bare}); {remedy}"
        )


def repeats_itself(text: str) -> bool:
    """Return whether the second half of a text is one piece of at most a quarter of it, over and over."""
    text = text.strip()
    half = text[len(text) // 2 :]
    return len(text) >= 8 and any(
        half == (half[:n] * len(half))[: len(half)] for n in range(1, max(2, len(text) // 4 + 1))
    )


class SteeredLearner(Learner):
    """Prompts as a recipe's other methods make them, to a model that is steered."""

    def __init__(self, recipe: Recipe, setup: Setup):
        assert setup.model is not None
        self.recipe, self._setup, self._seed = recipe, setup, setup.seed
        self._progress = (setup.selector_model or setup.model).progress
        self._prompted = PromptLearner(recipe.without("steerer"), setup)

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; those with the same steering are asked together."""
        predictions: list[Prediction] = []
        for n_known, group in groupby(queries, key=lambda query: refit_point(len(query.past))):
            asked, began = list(group), time.perf_counter()
            model = self._prompted.model
            model = replace(model, progress=self._progress, ledger=model.ledger.part())
            ready = self._prompted.prepare(asked[0].past, model)
            known = (*asked[0].past[:n_known], *ready.made)
            steering = fitted_steering(self.recipe, known, ready.model, seed=self._seed)
            seconds, n_tokens = time.perf_counter() - began, model.ledger.cost.tokens
            self._prompted.steering = steering
            first, *others = self._prompted.predict(asked, progress=progress)
            first = replace(first, fit_seconds=first.fit_seconds + seconds, fit_tokens=first.fit_tokens + n_tokens)
            predictions += [first, *others]
        return predictions

    def anew(self) -> "SteeredLearner":
        """Return a learner that has found no steering yet."""
        return SteeredLearner(self.recipe, self._setup)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Find the steering in all examples."""
        model = replace(self._prompted.model, progress=self._progress)
        ready = prepared(self.recipe, examples, model, seed=self._seed)
        steering = fitted_steering(self.recipe, (*examples, *ready.made), ready.model, seed=self._seed)
        found = self._prompted.fit(examples)
        about = {"steering": dict(steering.about), **found.about} if steering else found.about
        return replace(found, recipe=self.recipe.having(**found.recipe.parts), steering=steering, about=about)

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fit takes."""
        return refitted(predictions, known, n_end)
