"""Recipes, one way of adapting each, and the learners that put them to work on a stream."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kshot.baselines import BASELINES
from kshot.core.errors import UserError
from kshot.core.plugins import configure, find, resolve
from kshot.core.seeding import digest, generator
from kshot.core.types import (
    Baseline,
    Capability,
    Example,
    FloatArray,
    LanguageModel,
    Learner,
    Prediction,
    Query,
    ScoreRequest,
    Selector,
    Task,
)
from kshot.models.embedding import missing_package
from kshot.prompts.template import Template
from kshot.selection import SELECTORS

ZERO_SHOT = "zero-shot"
ZERO_SHOT_DOC = "Ask without any demonstration.\n\nSource: Brown et al. (2020), https://arxiv.org/abs/2005.14165."
UNIFORM_SHARE = 0.01  # of the uniform, mixed into every recipe's probabilities


@dataclass(frozen=True)
class Recipe:
    """A selector, or none, in front of a language model; or a baseline without one.

    Attributes:
        name: As written, "random:k=8": it names the settings that differ from the defaults.
        k: The most demonstrations shown.
        selector: Chooses them; None shows none.
        baseline: Answers without a language model.
    """

    name: str
    k: int = 0
    selector: Selector | None = None
    baseline: Baseline | None = None

    @property
    def fingerprint(self) -> str:
        """Identify method and settings."""
        return digest(self.name.split(":")[0], self.k, repr(self.selector), repr(self.baseline))

    @property
    def missing_package(self) -> str | None:
        """A package that has to be installed before the recipe can run."""
        encoder = getattr(self.selector or self.baseline, "encoder", None)
        return missing_package(encoder) if encoder else None

    @property
    def needs(self) -> frozenset[Capability]:
        """What a model must be able to do."""
        return frozenset() if self.baseline else frozenset({Capability.SCORE})


def known_recipes() -> dict[str, str | None]:
    """Return the recipes' names with the class behind each; they are run in this order."""
    return {**BASELINES, ZERO_SHOT: None, **SELECTORS}


def parse_recipes(text: str, *, shots: int) -> tuple[Recipe, ...]:
    """Read recipes as written on the command line: "all", or "bm25,random:k=8,balanced=true,zero-shot".

    Args:
        text: Names, separated by commas; settings follow a colon.
        shots: Demonstrations of recipes that name no `k` of their own.

    Raises:
        UserError: An unknown name or setting, a setting of the wrong type, a recipe named twice.
    """
    names: list[str] = []
    for piece in text.split(","):
        is_setting = "=" in piece and ":" not in piece
        if is_setting and names:
            names[-1] += f",{piece.strip()}"
        else:
            names.append(piece.strip())
    if names == ["all"]:
        names = list(known_recipes())
    recipes = [parse_recipe(name, shots=shots) for name in names]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--recipes must name each recipe once; got '{name}' {names.count(name)} times.")
    return tuple(recipes)


def parse_recipe(name: str, *, shots: int) -> Recipe:
    """Read one recipe; see `parse_recipes`."""
    base, settings = _split(name)
    pieces = [piece.partition("=") for piece in settings.split(",")] if settings else []
    values = {key.strip(): value.strip() for key, _, value in pieces}
    if len(values) < len(pieces):
        raise UserError(f"{name}: each setting must be there once; got '{settings}'.")
    if base == ZERO_SHOT:
        if settings:
            raise UserError(f"'{ZERO_SHOT}' has no settings; got '{settings}'.")
        return Recipe(name)
    if base in BASELINES:
        return Recipe(name, baseline=configure(resolve(BASELINES[base]), values, owner=base))
    k_text = values.pop("k", str(shots))
    if not k_text.isdecimal() or int(k_text) < 1:
        raise UserError(f"{name}: k must be a whole number, 1 or more; got '{k_text}'.")
    table = {k: v for k, v in known_recipes().items() if v}
    cls = find(base, {**table, ZERO_SHOT: ""}, group="kshot.selectors", what="recipe")
    return Recipe(name, k=int(k_text), selector=configure(cls, values, owner=base, also=("k",)))


def _split(name: str) -> tuple[str, str]:
    """Split "name:settings"; a user's own "./file.py:Class" keeps its colon."""
    head, _, rest = name.partition(":")
    if head.endswith(".py"):
        cls, _, settings = rest.partition(":")
        return f"{head}:{cls}", settings
    return head, rest


def describe_recipes() -> list[dict[str, Any]]:
    """Return a row for each known recipe: name, summary, selector, tuner, steerer, needs, source."""
    rows = []
    for name, reference in known_recipes().items():
        doc = inspect.getdoc(resolve(reference)) if reference else ZERO_SHOT_DOC
        source = (doc or "").partition("Source:")[2].partition("Differs:")[0]
        rows.append(
            {
                "name": name,
                "summary": (doc or "").partition("\n")[0],
                "selector": name if name in SELECTORS else None,
                "tuner": None,
                "steerer": None,
                "needs": [] if name in BASELINES else [Capability.SCORE.value],
                "source": " ".join(source.split()) or None,
            }
        )
    return rows


def make_learner(recipe: Recipe, task: Task, model: LanguageModel | None, *, seed: int) -> Learner:
    """Return the learner that puts a recipe to work.

    Raises:
        UserError: The recipe needs a capability that the model lacks.
    """
    if recipe.baseline:
        return BaselineLearner(recipe.name, recipe.baseline, task, seed)
    lacking = recipe.needs - (model.capabilities if model else frozenset())
    if model is None or lacking:
        raise UserError(
            f"The recipe '{recipe.name}' needs a model that can {', '.join(sorted(lacking))}; give another --model."
        )
    return PromptLearner(recipe, task, model, seed)


def refit_point(n_past: int) -> int:
    """Return how many of the first examples a task-level choice rests on: the last power of two in `n_past`."""
    return 1 << (n_past.bit_length() - 1) if n_past else 0


def mixed(probabilities: FloatArray) -> FloatArray:
    """Mix in a little of the uniform, so that no answer costs infinitely many bits."""
    return (1 - UNIFORM_SHARE) * probabilities + UNIFORM_SHARE / len(probabilities)


@dataclass
class PromptLearner:
    """Shows demonstrations chosen from the past and reads the candidates' log-probabilities."""

    recipe: Recipe
    task: Task
    model: LanguageModel
    seed: int
    template: Template = field(default_factory=Template)
    _selector: Any = None  # fitted on a pool of `_n_pool` examples that ends with `_last`
    _n_pool: int = -1
    _last: Example | None = None

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past; all prompts go to the model at once, so that they share prefixes."""
        asked = [self.request(query) for query in queries]
        before = self.model.work.seconds
        scores = self.model.score([request for request, *_ in asked], progress=progress)
        seconds = (self.model.work.seconds - before) / max(1, len(queries))
        predictions = []
        for query, row, (request, shown, n_dropped, fit_seconds) in zip(queries, scores, asked, strict=True):
            candidates = self.task.candidates(query.example)
            probabilities = mixed(np.exp(row - np.logaddexp.reduce(row)))
            predictions.append(
                Prediction(
                    example_id=query.example.id,
                    candidates=candidates,
                    log_probs=tuple(row.tolist()),
                    probs=tuple(probabilities.tolist()),
                    answer=candidates[int(np.argmax(probabilities))],
                    prompt_tokens=1 + sum(self.model.count_tokens(s.text) for s in request.prompt.segments),
                    seconds=seconds,
                    fit_seconds=fit_seconds,
                    demonstrations=tuple(e.id for e in shown),
                    dropped=n_dropped,
                )
            )
        return predictions

    def request(self, query: Query) -> tuple[ScoreRequest, tuple[Example, ...], int, float]:
        """Return what is asked of the model for a query.

        Returns:
            The request, the demonstrations shown, how many chosen ones did not fit, the seconds that choosing took.
        """
        began = time.perf_counter()
        chosen = self._demonstrations(query)
        seconds = time.perf_counter() - began
        prompt, n_dropped = self.template.compose_to_fit(self.task, chosen, query.example, self.model)
        answers = tuple(self.template.answer(c) for c in self.task.candidates(query.example))
        return ScoreRequest(prompt, answers), chosen[n_dropped:], n_dropped, seconds

    def _demonstrations(self, query: Query) -> tuple[Example, ...]:
        selector = self.recipe.selector
        if selector is None or not query.past:
            return ()
        pool = query.past if selector.per_query else query.past[: refit_point(len(query.past))]
        if len(pool) != self._n_pool or pool[-1] is not self._last:
            self._selector = fitted(selector, pool, seed=self.seed)
            self._n_pool, self._last = len(pool), pool[-1]
        asked = query.example if selector.per_query else None
        return demonstrations(self._selector, pool, self.recipe.k, asked, seed=self.seed)


def fitted(selector: Selector, pool: Sequence[Example], *, seed: int) -> Selector:
    """Return the selector fitted on a pool; the same pool and seed give the same one."""
    return selector.fit(pool, rng=generator(seed, "fit", len(pool)))


def demonstrations(
    selector: Selector, pool: Sequence[Example], k: int, query: Example | None, *, seed: int
) -> tuple[Example, ...]:
    """Return what a fitted selector shows for a query, or for the whole task where the query is None."""
    rng = generator(seed, "select", query.id if query else len(pool))
    indices = selector.select(query, k, rng=rng)
    if len(set(indices)) < len(indices) or not set(indices) <= set(range(len(pool))):
        name = type(selector).__name__
        raise UserError(f"A selector must return different indices in 0..{len(pool) - 1}; {name} returned {indices}.")
    return tuple(pool[i] for i in indices)


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
