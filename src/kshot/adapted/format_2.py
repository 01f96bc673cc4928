"""Adapted models that were written before recipes had records: format 2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot.core.call import Call, parse_call
from kshot.recipes.grammar import parse_recipe


def upgraded(about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what `kshot.json` of format 2 says, in today's words.

    There a recipe is a name with settings alone; a retriever that was trained in the run, or named by its place, was
    copied into the folder.

    Args:
        about: As it was read.
        folder: Where it stands.
    """
    name, k = about["recipe"]["name"], max(1, about["recipe"]["k"])
    call = parse_call(name)
    settings = {key: value for key, value in call.settings.items() if key != "retriever"}
    recipe = parse_recipe(_as_text(Call(call.name, settings=settings)), shots=k, raced=False)
    record = recipe.record() | {"name": name}
    return {**about, "recipe": record, "notes": [], "adapter": about["adapter"], "steering": about.get("steering")}


def _as_text(call: Call) -> str:
    settings = ",".join(f"{key}={value}" for key, value in call.settings.items())
    return f"{call.name}:{settings}" if settings else call.name
