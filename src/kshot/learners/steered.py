"""Steering at work on a stream: found anew whenever the past has doubled, on the past alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.steering import Steering
from kshot.core.types import Example, Prediction, Query
from kshot.learners.prompted import PromptLearner
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

MOST_TRIED = 8  # answers that are looked at


def fitted_steering(recipe: Recipe, known: Sequence[Example], subject: TaskModel, *, seed: int) -> Steering | None:
    """Return the steering that a recipe finds in examples; None where it has no steerer, or they are too few.

    Raises:
        ModelError: Under the steering the model's outputs are not numbers.
    """
    if recipe.steerer is None or len(known) < recipe.steerer.least:
        return None
    found = recipe.steerer.fit(known, subject=subject, rng=generator(seed, "steer", len(known)))
    check_outputs(recipe.name, found, known[:MOST_TRIED], subject)
    return found


def check_outputs(name: str, steering: Steering, examples: Sequence[Example], subject: TaskModel) -> None:
    """Look at what a steered model says, and tell where the texts that it writes only repeat themselves.

    Raises:
        ModelError: Its outputs are not numbers.
    """
    weaker = "use a smaller strength, or let it be chosen"
    bits = subject.bits_under([steering], examples)
    if not np.isfinite(bits).all():
        raise ModelError(f"{name}: under this steering the model's outputs are not numbers; {weaker}.")
    if not subject.task.is_open:
        return
    prompts = [subject.prompt((), e)[0] for e in examples]
    steered, bare = (a.generate(prompts) for a in (subject.steered(steering), subject))
    n, n_bare = (sum(repeats_itself(g.text) for g in some) for some in (steered, bare))
    if n > max(n_bare, len(examples) // 2):
        sample = next(g.text for g in steered if repeats_itself(g.text)).strip()[:40]
        subject.progress.say(
            f"{name}: under this steering the model repeats itself on {n} of {len(examples)} inputs ({sample!r}; "
            f"without it on {n_bare}); {weaker}"
        )


def repeats_itself(text: str) -> bool:
    """Return whether the second half of a text is one piece of at most a quarter of it, over and over."""
    text = text.strip()
    half = text[len(text) // 2 :]
    return len(text) >= 8 and any(
        half == (half[:n] * len(half))[: len(half)] for n in range(1, max(2, len(text) // 4 + 1))
    )


@dataclass
class SteeredLearner:
    """A recipe with a steerer: prompts as its other parts make them, to a model that is steered."""

    recipe: Recipe
    asker: TaskModel
    judge: TaskModel
    seed: int

    def __post_init__(self):
        self._prompted = PromptLearner(replace(self.recipe, steerer=None), self.asker, self.judge, self.seed)

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; those with the same steering are asked together."""
        predictions: list[Prediction] = []
        for n_known, group in groupby(queries, key=lambda query: refit_point(len(query.past))):
            asked, began = list(group), time.perf_counter()
            subject = replace(self.asker, progress=self.judge.progress, ledger=self.asker.ledger.part())
            steering = fitted_steering(self.recipe, asked[0].past[:n_known], subject, seed=self.seed)
            seconds, n_tokens = time.perf_counter() - began, subject.ledger.cost.tokens
            self._prompted.asker = self.asker.steered(steering) if steering else self.asker
            first, *others = self._prompted.predict(asked, progress=progress)
            first = replace(first, fit_seconds=first.fit_seconds + seconds, fit_tokens=first.fit_tokens + n_tokens)
            predictions += [first, *others]
        return predictions
