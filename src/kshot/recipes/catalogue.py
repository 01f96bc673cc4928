"""What methods there are, for `kshot recipes` and the docs: from their own documentation."""

import inspect
from dataclasses import fields
from typing import Any

from kshot.core.errors import UserError, did_you_mean
from kshot.core.fields import setting_names
from kshot.core.lessons import Training
from kshot.core.models import Capability
from kshot.core.part import Part
from kshot.core.plugins import Room, origin_of, resolve
from kshot.methods.contracts import Tuner
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.names import SLOTS, ZERO_SHOT, known_recipes

ZERO_SHOT_DOC = "Ask without any demonstration.\n\nSource: Brown et al. (2020), https://arxiv.org/abs/2005.14165."


def describe_recipes() -> list[dict[str, Any]]:
    """Return a row for each known recipe: name, summary, the slot that it is about, needs, source."""
    rows = []
    for name, slot in known_recipes().items():
        doc = ZERO_SHOT_DOC if slot is None else _doc(SLOTS[slot][name])
        recipe = parse_recipe(name, shots=1)
        needs = recipe.needs | ({Capability.SCORE} if recipe.asks_model else set())
        slots = {key: name if key == slot else None for key in ("selector", "tuner", "steerer")}
        rows.append(
            {
                "name": name,
                "summary": _summary(doc),
                **slots,
                "needs": sorted(n.value for n in needs),
                "source": _source(doc),
            }
        )
    return rows


def describe_methods() -> list[dict[str, Any]]:
    """Return a row for each method that does nothing alone: name, summary, source, slot."""
    alone = known_recipes()
    rows = [row | {"slot": slot} for slot, room in SLOTS.items() for row in describe(room)]
    return [row for row in rows if alone.get(row["name"]) != row["slot"]]


def describe(room: Room) -> list[dict[str, Any]]:
    """Return a row for each method of a room: name, summary, source."""
    docs = {name: _doc(reference) for name, reference in room.items()}
    return [{"name": name, "summary": _summary(doc), "source": _source(doc)} for name, doc in docs.items()]


def describe_one(name: str) -> list[dict[str, Any]]:
    """Return a row for each slot that has a method of a name: slot, all that is said of it, settings with defaults.

    Those of training (`Training`) are left out, but for those that race where they are not given.

    Args:
        name: As a recipe names it.

    Raises:
        UserError: Nobody knows the name.
    """
    if name == ZERO_SHOT:
        return [{"name": name, "slot": None, "about": ZERO_SHOT_DOC, "settings": {}}]
    rows = []
    for slot, room in SLOTS.items():
        if name in room:
            cls = resolve(room[name])
            shared = setting_names(Training) if issubclass(cls, Training) else ()
            defaults = {f.name: f.default for f in fields(cls)}
            raced = cls.grids.get(cls.weights, {}) if issubclass(cls, Tuner) else {}
            settings = {k: _said(defaults[k]) for k in setting_names(cls) if k not in shared} | dict(raced)
            about = (inspect.getdoc(cls) or "").partition("\nExample:")[0].strip()
            rows.append({"name": name, "slot": slot, "about": about, "settings": settings})
    if not rows:
        known = [*known_recipes(), *(method for room in SLOTS.values() for method in room)]
        raise UserError(f"there is no recipe or method '{name}'.{did_you_mean(name, known)}")
    return rows


def _said(value: Any) -> str:
    """Return a default as it is written in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    return origin_of(type(value)).name if isinstance(value, Part) else str(value)


def _doc(reference: str) -> str:
    return inspect.getdoc(resolve(reference)) or ""


def _summary(doc: str) -> str:
    return doc.partition("\n")[0]


def _source(doc: str) -> str | None:
    return " ".join(doc.partition("Source:")[2].partition("Differs:")[0].split()) or None
