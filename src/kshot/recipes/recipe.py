"""Recipes: one way of adapting each, read from names with settings."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from kshot.core.errors import UserError
from kshot.core.lessons import Training
from kshot.core.methods import Baseline, Selector, Steerer, Tuner
from kshot.core.models import Capability
from kshot.core.plugins import configure, find, resolve
from kshot.core.seeding import digest
from kshot.core.types import Task
from kshot.encoders.encoder import missing_package
from kshot.methods.classifiers import BASELINES
from kshot.methods.orders import AS_SELECTED, check_order
from kshot.methods.selectors import ON_REQUEST, SELECTORS
from kshot.methods.selectors.all_past import AllPast
from kshot.methods.selectors.random import Random
from kshot.methods.steerers import ON_REQUEST as STEERERS_ON_REQUEST
from kshot.methods.steerers import STEERERS
from kshot.methods.tuners import TUNERS

ZERO_SHOT = "zero-shot"
ZERO_SHOT_DOC = "Ask without any demonstration.\n\nSource: Brown et al. (2020), https://arxiv.org/abs/2005.14165."
CALIBRATIONS = ("temperature", "contextual", "none")
# What is tried where a recipe does not say: alternatives are raced along the stream
GRIDS = {
    "lora": {"lr": "1e-4/3e-4/1e-3", "steps": "1/3"},
    "full": {"lr": "1e-5/3e-5/1e-4", "steps": "1/3"},
}


@dataclass(frozen=True)
class Recipe:
    """A selector, or none, in front of a language model; or a baseline without one.

    Attributes:
        name: As written, "random:k=8": it names the settings that differ from the defaults.
        k: The most demonstrations shown.
        selector: Chooses them; None shows none.
        baseline: Answers without a language model.
        order: How the chosen ones are put in order (`kshot.methods.orders`).
        tuner: What is learnt when an example arrives; None leaves the weights.
        training: How weights are trained, where there is a tuner.
        steerer: Finds what is changed in the activations, with whatever else the recipe does; None changes nothing.
        alternatives: The configurations that are raced, each with one value for every setting; empty where the
            settings leave no choice.
        calibration: "temperature" divides log-probabilities by a temperature fitted on the past; "contextual" divides
            probabilities by those of inputs without content (Zhao et al. 2021, https://arxiv.org/abs/2102.09690);
            "none" leaves them.
    """

    name: str
    k: int = 0
    selector: Selector | None = None
    baseline: Baseline | None = None
    order: str = AS_SELECTED
    calibration: str = "none"
    tuner: Tuner | None = None
    training: Training | None = None
    steerer: Steerer | None = None
    alternatives: "tuple[Recipe, ...]" = ()

    @property
    def fingerprint(self) -> str:
        """Identify method and settings."""
        parts = repr(self.selector), repr(self.baseline), self.order, self.calibration
        trained = [repr(self.tuner), repr(self.training), *(a.fingerprint for a in self.alternatives)]
        trained = trained if self.tuner else []
        return digest(self.name.split(":")[0], self.k, *parts, *trained, *([repr(self.steerer)] * bool(self.steerer)))

    @property
    def variants(self) -> "tuple[Recipe, ...]":
        """The configurations that are raced; the recipe itself where its settings leave no choice."""
        return self.alternatives or (self,)

    @property
    def missing_package(self) -> str | None:
        """A package that has to be installed before the recipe can run."""
        encoder = getattr(self.selector or self.baseline, "encoder", None)
        return missing_package(encoder) if encoder else None

    @property
    def needs(self) -> frozenset[Capability]:
        """What a model must be able to do."""
        if self.baseline:
            return frozenset()
        more = {Capability.GRADIENTS: self.tuner, Capability.ACTIVATIONS: self.steerer}
        return frozenset({Capability.SCORE, *(need for need, part in more.items() if part)})

    @property
    def learns(self) -> bool:
        """Whether its answers depend on examples."""
        return any((self.selector, self.baseline, self.tuner, self.steerer))

    @property
    def changes_model(self) -> bool:
        """Whether weights or activations are changed."""
        return bool(self.tuner or self.steerer)

    @property
    def per_query(self) -> bool:
        """Whether demonstrations are chosen for each query."""
        return self.selector is not None and self.selector.per_query

    @property
    def selector_needs(self) -> frozenset[Capability]:
        """What the model that its selector asks must be able to do."""
        return getattr(self.selector, "needs", frozenset())

    def aligned(self) -> "Recipe":
        """Return the recipe, and its alternatives, aligned with a source task, where they train and do not say how."""
        training = self.training
        if training and training.align == "none":
            training = replace(training, align="gate")
        return replace(self, training=training, alternatives=tuple(a.aligned() for a in self.alternatives))

    def suits(self, task: Task) -> bool:
        """Return whether it can answer the task's kind."""
        if self.baseline:
            return self.baseline.applies(task)
        return not (task.is_open and self.calibration == "contextual")


def known_recipes() -> dict[str, str | None]:
    """Return the recipes' names with the class behind each; they are run in this order."""
    return {**BASELINES, ZERO_SHOT: None, **SELECTORS, **STEERERS, **TUNERS}


def parse_recipes(text: str, *, shots: int) -> tuple[Recipe, ...]:
    """Read recipes as written on the command line: "all", or "bm25,random:k=8,balanced=true,zero-shot".

    "all" are those that are cheap; others (`ON_REQUEST`) have to be named, as in "all,best-of-n".

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
    if "all" in names:
        at = names.index("all")
        left_out = (*ON_REQUEST, *STEERERS_ON_REQUEST, *names)
        names[at : at + 1] = [name for name in known_recipes() if name not in left_out]
    recipes = [parse_recipe(name, shots=shots) for name in names]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--recipes must name each recipe once; got '{name}' {names.count(name)} times.")
    return tuple(recipes)


def parse_recipe(name: str, *, shots: int, moved: Mapping[str, str] | None = None) -> Recipe:
    """Read one recipe; see `parse_recipes`. Settings that name a file which has `moved` are read with its new place."""
    base, settings = _split(name)
    pieces = [piece.partition("=") for piece in settings.split(",")] if settings else []
    values = {key.strip(): value.strip() for key, _, value in pieces}
    if len(values) < len(pieces):
        raise UserError(f"{name}: each setting must be there once; got '{settings}'.")
    values |= {key: place for key, place in (moved or {}).items() if key in values}
    if base in TUNERS:
        return _tuned(name, base, values, shots=shots)
    if base in BASELINES:
        return Recipe(name, baseline=configure(resolve(BASELINES[base]), values, owner=base))
    calibration = _calibration(values, base)
    if base == ZERO_SHOT:
        if values:
            raise UserError(f"'{ZERO_SHOT}' has no setting but calibration; got '{settings}'.")
        return Recipe(name, calibration=calibration)
    order = values.pop("order", AS_SELECTED)
    check_order(order, base)
    if base in STEERERS:
        shown = values.pop("selector", None)
        k = _count(name, values.pop("k", str(shots if shown else 0)), least=0)
        also = ("k", "order", "calibration", "selector")
        steerer = configure(resolve(STEERERS[base]), values, owner=base, also=also)
        selector = _selector(shown or "random") if k else None
        return Recipe(name, k=k, selector=selector, order=order, calibration=calibration, steerer=steerer)
    k = _count(name, values.pop("k", str(shots)))
    table = {k: v for k, v in known_recipes().items() if v}
    cls = find(base, {**table, ZERO_SHOT: ""}, group="kshot.selectors", what="recipe")
    selector = configure(cls, values, owner=base, also=("k", "order", "calibration"))
    return Recipe(name, k=k, selector=selector, order=order, calibration=calibration)


def _calibration(values: dict[str, str], base: str) -> str:
    """Take the setting `calibration` out of `values`."""
    calibration = values.pop("calibration", CALIBRATIONS[0])
    if calibration not in CALIBRATIONS:
        raise UserError(f"{base}: calibration must be one of {', '.join(CALIBRATIONS)}; got '{calibration}'.")
    return calibration


def _count(name: str, text: str, *, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}: k must be a whole number, {least} or more; got '{text}'.")
    return int(text)


def _tuned(name: str, base: str, values: dict[str, str], *, shots: int) -> Recipe:
    """Read a recipe that trains weights; alternatives are separated by slashes, as in lr=1e-4/3e-4."""
    weights = values.get("weights", "lora")
    tried = {**GRIDS.get(weights, {}), **values}
    keys = list(tried)
    texts = [list(dict.fromkeys(tried[key].split("/"))) for key in keys]
    # The first are preferred where nothing tells them apart: the lowest lr
    settings = [dict(zip(keys, combination, strict=True)) for combination in product(*texts)]
    named = {key for key, options in zip(keys, texts, strict=True) if len(options) > 1 or key in values}
    variants = []
    for one in settings:
        own = ",".join(f"{key}={value}" for key, value in one.items() if key in named)
        variants.append(_one_tuned(f"{base}:{own}" if own else base, base, one, shots=shots))
    if len(variants) == 1:
        return replace(variants[0], name=name)
    deepest = max(variants, key=lambda v: v.k)
    return replace(deepest, name=name, alternatives=tuple(variants))


def _one_tuned(name: str, base: str, settings: dict[str, str], *, shots: int) -> Recipe:
    values = dict(settings)
    calibration, order = _calibration(values, base), values.pop("order", AS_SELECTED)
    check_order(order, base)
    trained = {f.name: values.pop(f.name) for f in fields(Training) if f.name in values}
    training = configure(Training, trained, owner=base)
    cls, shown, steered = resolve(TUNERS[base]), values.pop("selector", None), values.pop("steerer", None)
    also = ("order", "calibration", "selector", "steerer", *(f.name for f in fields(Training)))
    k = None  # that of the training texts, unless these have no demonstrations
    if "k" not in {f.name for f in fields(cls)}:
        also, k = (*also, "k"), _count(name, values.pop("k", str(shots if shown else 0)), least=0)
    tuner = configure(cls, values, owner=base, also=also)
    k = tuner.k if k is None else k
    selector: Selector | None = None
    if k and shown:
        selector = _selector(shown)
    elif k:
        selector = AllPast(limit=k) if tuner.fixed else Random(fresh=True)
    steerer = None
    if steered:
        steerer = configure(find(steered, STEERERS, group="kshot.steerers", what="steerer"), {}, owner=steered)
    how: Any = {"order": order, "calibration": calibration, "tuner": tuner, "training": training, "steerer": steerer}
    return Recipe(name, k, selector, **how)


def _selector(name: str) -> Selector:
    """Return a selector with its default settings."""
    return configure(find(name, SELECTORS, group="kshot.selectors", what="selector"), {}, owner=name)


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
                "tuner": name if name in TUNERS else None,
                "steerer": name if name in STEERERS else None,
                "needs": sorted(need.value for need in parse_recipe(name, shots=1).needs),
                "source": " ".join(source.split()) or None,
            }
        )
    return rows
