"""Adapted models of older formats: 4; 3, which has no seal; and 2, from before recipes had records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kshot.core.call import Call, parse_call
from kshot.core.errors import UserError
from kshot.core.plugins import is_own
from kshot.core.schema import shaped
from kshot.measures.averages import ARITHMETIC
from kshot.recipes.grammar import parse_recipe

UNSEALED_FORMATS, SEALED_FORMATS = (2, 3), (4,)


class _Named(TypedDict):
    name: str
    k: int


def upgraded(about: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return what `kshot.json` of an older format says, in today's words.

    Before format 5 a temperature was all of the calibration, several contexts were members of an average, each a draw
    of its own, and past answers were not kept. In format 2 a recipe is a name with settings alone; a retriever that was
    trained in the run, or named by its place, was copied into the folder. In 2, and at first in 3, letters of choices
    had one form.

    Args:
        about: As it was read.
        file: Where.
    """
    about = {"past": None, "abstention": None, **about}
    if "temperature" in about:
        about["calibration"] = {"temperature": about.pop("temperature"), "strength": 0.0, "prior": []}
    if isinstance(about.get("task"), Mapping):
        about["task"] = {"letter_form": "(A)", **about["task"]}
    if about["format"] != 2:
        return {**about, "recipe": _of_one_context(about.get("recipe"))}
    named = shaped(_Named, about.get("recipe"), file, "Adapt again.")
    if is_own(named["name"]):
        raise UserError(f"{file} must name a method of kshot, as in format 2; got '{named['name']}'. Adapt again.")
    call = parse_call(named["name"])
    settings = {key: value for key, value in call.settings.items() if key != "retriever"}
    recipe = parse_recipe(_as_text(Call(call.name, settings=settings)), shots=max(1, named["k"]), raced=False)
    return {"steering": None, **about, "recipe": recipe.record() | {"name": named["name"]}, "notes": []}


def _of_one_context(record: Any) -> Any:
    """Return the record of a recipe from when it had a number of its draw, in place of how many contexts it shows."""
    if not isinstance(record, Mapping):
        return record
    kept = {key: value for key, value in record.items() if key != "draw"}
    members = record.get("members")
    if isinstance(members, list):
        kept["members"] = [_of_one_context(member) for member in members]
    return {"contexts": 1, "mean": ARITHMETIC, **kept}


def _as_text(call: Call) -> str:
    settings = ",".join(f"{key}={value}" for key, value in call.settings.items())
    return f"{call.name}:{settings}" if settings else call.name
