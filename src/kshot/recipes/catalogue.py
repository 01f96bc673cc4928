"""What methods there are, for `kshot recipes` and the docs: from their own documentation."""

import inspect
from typing import Any

from kshot.core.models import Capability
from kshot.core.plugins import Room, resolve
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.names import SLOTS, known_recipes

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


def _doc(reference: str) -> str:
    return inspect.getdoc(resolve(reference)) or ""


def _summary(doc: str) -> str:
    return doc.partition("\n")[0]


def _source(doc: str) -> str | None:
    return " ".join(doc.partition("Source:")[2].partition("Differs:")[0].split()) or None
