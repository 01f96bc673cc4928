"""Recipes: one way of adapting each, read from names with settings."""

import inspect
from dataclasses import dataclass
from typing import Any

from kshot.baselines import BASELINES
from kshot.core.errors import UserError
from kshot.core.plugins import configure, find, resolve
from kshot.core.protocols import Baseline, Capability, Selector
from kshot.core.seeding import digest
from kshot.core.types import Task
from kshot.models.embedding import missing_package
from kshot.selection import ON_REQUEST, SELECTORS
from kshot.selection.order import AS_SELECTED, check_order

ZERO_SHOT = "zero-shot"
ZERO_SHOT_DOC = "Ask without any demonstration.\n\nSource: Brown et al. (2020), https://arxiv.org/abs/2005.14165."
CALIBRATIONS = ("temperature", "contextual", "none")


@dataclass(frozen=True)
class Recipe:
    """A selector, or none, in front of a language model; or a baseline without one.

    Attributes:
        name: As written, "random:k=8": it names the settings that differ from the defaults.
        k: The most demonstrations shown.
        selector: Chooses them; None shows none.
        baseline: Answers without a language model.
        order: How the chosen ones are put in order (`kshot.selection.order`).
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

    @property
    def fingerprint(self) -> str:
        """Identify method and settings."""
        parts = repr(self.selector), repr(self.baseline), self.order, self.calibration
        return digest(self.name.split(":")[0], self.k, *parts)

    @property
    def missing_package(self) -> str | None:
        """A package that has to be installed before the recipe can run."""
        encoder = getattr(self.selector or self.baseline, "encoder", None)
        return missing_package(encoder) if encoder else None

    @property
    def needs(self) -> frozenset[Capability]:
        """What a model must be able to do."""
        return frozenset() if self.baseline else frozenset({Capability.SCORE})

    def suits(self, task: Task) -> bool:
        """Return whether it can answer the task's kind."""
        if self.baseline:
            return self.baseline.applies(task)
        return not (task.is_open and self.calibration == "contextual")


def known_recipes() -> dict[str, str | None]:
    """Return the recipes' names with the class behind each; they are run in this order."""
    return {**BASELINES, ZERO_SHOT: None, **SELECTORS}


def parse_recipes(text: str, *, shots: int) -> tuple[Recipe, ...]:
    """Read recipes as written on the command line: "all", or "bm25,random:k=8,balanced=true,zero-shot".

    "all" are those that are cheap; `best-of-n` has to be named, as in "all,best-of-n".

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
        names[at : at + 1] = [name for name in known_recipes() if name not in (*ON_REQUEST, *names)]
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
    if base in BASELINES:
        return Recipe(name, baseline=configure(resolve(BASELINES[base]), values, owner=base))
    calibration = values.pop("calibration", CALIBRATIONS[0])
    if calibration not in CALIBRATIONS:
        raise UserError(f"{base}: calibration must be one of {', '.join(CALIBRATIONS)}; got '{calibration}'.")
    if base == ZERO_SHOT:
        if values:
            raise UserError(f"'{ZERO_SHOT}' has no setting but calibration; got '{settings}'.")
        return Recipe(name, calibration=calibration)
    order = values.pop("order", AS_SELECTED)
    check_order(order, base)
    k_text = values.pop("k", str(shots))
    if not k_text.isdecimal() or int(k_text) < 1:
        raise UserError(f"{name}: k must be a whole number, 1 or more; got '{k_text}'.")
    table = {k: v for k, v in known_recipes().items() if v}
    cls = find(base, {**table, ZERO_SHOT: ""}, group="kshot.selectors", what="recipe")
    selector = configure(cls, values, owner=base, also=("k", "order", "calibration"))
    return Recipe(name, k=int(k_text), selector=selector, order=order, calibration=calibration)


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
