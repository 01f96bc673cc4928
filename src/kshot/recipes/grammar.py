"""Recipes as text: `icl+ft:selector=bm25(k1=1.2),lr=1e-4/3e-4`, `random:k=8,contexts=4`, `average(bm25, zero-shot)`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, get_type_hints

from kshot.core.call import Call, parse_call, split_list
from kshot.core.errors import UserError, did_you_mean
from kshot.core.fields import setting_names
from kshot.core.part import Part
from kshot.core.plugins import Room, configure, room_of
from kshot.measures.averages import MEANS
from kshot.methods.contracts import Combiner
from kshot.methods.orders import AS_SELECTED, ORDERS, check_order
from kshot.methods.selectors.all_past import AllPast
from kshot.methods.selectors.random import Random
from kshot.recipes.names import SLOTS, cheap_recipes, slot_of
from kshot.recipes.recipe import CALIBRATIONS, MOST_CONTEXTS, Recipe

# Slots that can be filled beside the method that a recipe is about
_BESIDE: Mapping[str | None, tuple[str, ...]] = {
    None: ("composer", "loop"),
    "selector": ("composer", "generator", "loop"),
    "steerer": ("composer", "generator", "loop", "selector"),
    "tuner": ("composer", "generator", "loop", "selector", "steerer", "teacher"),
    "classifier": ("generator",),
    "combiner": (),
}
# Settings of the recipe itself, by what it is about
_OWN: Mapping[str | None, tuple[str, ...]] = {
    None: ("calibration",),
    "selector": ("k", "order", "calibration", "contexts", "mean"),
    "steerer": ("k", "order", "calibration", "contexts", "mean"),
    "tuner": ("k", "order", "calibration", "contexts", "mean"),
    "classifier": ("calibration",),
    "combiner": ("calibration",),
}


MOST_RECIPES, MOST_SETTINGS, MOST_SHOWN = 256, 256, 100_000


def parse_recipes(text: str, *, shots: int) -> tuple[Recipe, ...]:
    """Read recipes as written on the command line: "all", or "bm25,random:k=8,balanced=true,zero-shot".

    "all" are those that are cheap; others have to be named, as in "all,best-of-n".

    Args:
        text: Recipes, separated by commas; settings follow a colon.
        shots: Demonstrations of recipes that name no `k` of their own.

    Raises:
        UserError: An unknown name or setting, a setting of the wrong type, a recipe named twice.
    """
    names = split_list(text)
    if not any(names):
        raise UserError(f"--recipes must name at least one recipe, or all; got '{text}'.")
    if names.count("all") == 1:
        at = names.index("all")
        names[at : at + 1] = [name for name in cheap_recipes() if name not in names]
    if len(names) > MOST_RECIPES:
        raise UserError(f"--recipes must name at most {MOST_RECIPES} recipes; got {len(names)}. Run some at a time.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--recipes must name each recipe once; got '{name}' {names.count(name)} times.")
    return tuple(parse_recipe(name, shots=shots) for name in names)


def parse_recipe(name: str, *, shots: int, raced: bool = True) -> Recipe:
    """Read one recipe; settings with several values, as in lr=1e-4/3e-4, are its alternatives.

    Args:
        name: The recipe as text.
        shots: Demonstrations, where it names no `k` of its own.
        raced: Whether there is a race in which alternatives can be compared.

    Raises:
        UserError: As `parse_recipes`, or alternatives where nothing races.
    """
    call = parse_call(name)
    slot = slot_of(call.name)
    if call.members and slot not in ("combiner", "tuner"):
        raise UserError(f"'{call.name}' takes settings alone, such as {call.name}:key=value; got '{call.members[0]}'.")
    call = _with_teacher(call, slot)
    grid = _grid(call, slot) if raced else {}
    tried = {key: _alternatives(key, text, call.name, slot) for key, text in {**grid, **call.settings}.items()}
    several = [key for key, options in tried.items() if len(options) > 1]
    if slot == "combiner" and not call.members and not SLOTS[slot].find(call.name).usual:
        raced = False  # what it combines is not known before the run
    for key in several:
        if not all(tried[key]):
            raise UserError(f"{name}: {key} must have a value on each side of a slash; got '{call.settings[key]}'.")
    if several and not raced:
        key = several[0]
        raise UserError(
            f"'{name}' must have one value for each setting, as nothing races here; got {key}={call.settings[key]}."
        )
    named = {*several, *call.settings}
    # The first are preferred where nothing tells them apart: the lowest lr
    variants = []
    for values in _combined(tried, name):
        one = dict(zip(tried, values, strict=True))
        own = ",".join(f"{key}={value}" for key, value in one.items() if key in named)
        inside = f"({','.join(call.members)})" if call.members else ""
        label = f"{call.name}{inside}:{own}" if own else f"{call.name}{inside}"
        variants.append(_recipe(label, replace(call, settings=one), slot, shots=shots))
    if len(variants) == 1:
        return replace(variants[0], name=name)
    deepest = max(variants, key=lambda v: v.k)
    return replace(deepest, name=name, alternatives=tuple(variants))


def _with_teacher(call: Call, slot: str | None) -> Call:
    """Return a call in which the settings of a teacher that comes with the tuner stand in the teacher's brackets.

    `distil(bm25):by=selector-model` is `distil(bm25):teacher=prompt(by=selector-model)`.
    """
    cls = SLOTS[slot].find(call.name) if slot == "tuner" else None
    if cls is None or not cls.usual_teacher:
        return call
    teacher = parse_call(call.settings.get("teacher", cls.usual_teacher))
    known = setting_names(SLOTS["teacher"].find(teacher.name))
    others = {*setting_names(cls), *_OWN[slot], *_BESIDE[slot]}
    moved = {key: text for key, text in call.settings.items() if key in known and key not in others}
    if not moved:
        return call
    if twice := [key for key in moved if key in teacher.settings]:
        raise UserError(
            f"'{call.name}' must be given {twice[0]} once; got {twice[0]}={moved[twice[0]]} beside "
            f"teacher={teacher}. Leave one of the two out."
        )
    teacher = replace(teacher, settings={**teacher.settings, **moved})
    rest = {key: text for key, text in call.settings.items() if key not in {*moved, "teacher"}}
    return replace(call, settings={**rest, "teacher": str(teacher)})


def _grid(call: Call, slot: str | None) -> Mapping[str, str]:
    """Return what is tried where a recipe that trains does not say."""
    if slot != "tuner":
        return {}
    cls = SLOTS[slot].find(call.name)
    grid = cls.grids.get(call.settings.get("weights", cls.weights), {})
    return {key: text for key, text in grid.items() if key in setting_names(cls)}


def _alternatives(key: str, text: str, owner: str, slot: str | None) -> list[str]:
    """Return the values that a setting names: several where it can be raced and they are separated by slashes."""
    if key in ("k", "contexts", "mean"):
        return _pieces(text)
    if key == "order":
        return _pieces(text) if all(piece in ORDERS for piece in text.split("/")) else [text]
    if slot and key in _BESIDE[slot]:
        return _nested(text, SLOTS[key])
    if slot is None:
        return _nested(text, SLOTS[key]) if key in _BESIDE[None] else [text]
    return _values(text, SLOTS[slot].find(owner), key)


def _values(text: str, cls: type[Part], key: str) -> list[str]:
    """Return the values of a method's own setting: numbers, yes or no, words of a list can be raced."""
    if key not in setting_names(cls):
        return [text]
    field = next(f for f in cls.__dataclass_fields__.values() if f.name == key)
    kind = get_type_hints(cls)[key]
    room = room_of(kind)
    if room is not None:
        return _nested(text, room)
    is_raced = kind in (int, float, bool) or field.metadata.get("choices") or field.metadata.get("raced")
    return _pieces(text) if is_raced else [text]


def _nested(text: str, room: Room) -> list[str]:
    """Return the texts of a method in brackets, one for each combination of its settings."""
    call = parse_call(text)
    cls = room.find(call.name)
    tried = {key: _values(value, cls, key) for key, value in call.settings.items()}
    return [str(replace(call, settings=dict(zip(tried, v, strict=True)))) for v in _combined(tried, text)]


def _combined(tried: Mapping[str, list[str]], name: str) -> Iterator[tuple[str, ...]]:
    """Return the combinations of values that settings name."""
    n = prod(map(len, tried.values()))
    if n > MOST_SETTINGS:
        named = name if len(name) <= 200 else f"{name[:200]}…"
        raise UserError(
            f"{named} must stand for at most {MOST_SETTINGS} combinations of settings; it stands for {n}. Name fewer "
            "values."
        )
    return product(*tried.values())


def _pieces(text: str) -> list[str]:
    return list(dict.fromkeys(text.split("/")))


def _recipe(name: str, call: Call, slot: str | None, *, shots: int) -> Recipe:
    """Return a recipe that has one value for every setting."""
    values, base = dict(call.settings), call.name
    own = {key: values.pop(key) for key in _OWN[slot] if key in values}
    beside = {key: SLOTS[key].build(values.pop(key)) for key in _BESIDE[slot] if key in values}
    if slot is None:
        _contexts(name, values, k=0)
        _refuse(values, base, also=(*_OWN[None], *_BESIDE[None]))
        return Recipe(name, beside, calibration=_calibration(own, base))
    cls = SLOTS[slot].find(base)
    if slot == "tuner" and "k" in setting_names(cls) and "k" in own:
        values["k"] = own.pop("k")
    method = configure(cls, values, owner=base, also=(*_OWN[slot], *_BESIDE[slot]))
    parts = {**beside, slot: method}
    if slot == "tuner" and method.usual_teacher:
        parts.setdefault("teacher", SLOTS["teacher"].build(method.usual_teacher))
    if (teacher := parts.get("teacher")) and teacher.usual_composer:
        parts.setdefault("composer", SLOTS["composer"].build(teacher.usual_composer))
    if slot == "classifier":
        own = {"calibration": "none", **own}
        if own["calibration"] == "contextual":
            raise UserError(
                f"{base}: calibration must be one of auto, batch, temperature, none, as a classifier asks no language "
                "model; got 'contextual'. Use batch."
            )
        return Recipe(name, parts, calibration=_calibration(own, base))
    if "teacher" in parts:
        _check_teacher(name, call, parts)
    if slot == "combiner":
        calibration = _calibration({"calibration": "none"} | own if method.learns else own, base)
        return Recipe(name, parts, calibration=calibration, members=_members(call, method, shots=shots))
    calibration = _calibration(own, base)
    order = own.get("order", AS_SELECTED)
    check_order(order, base)
    k = _shown(name, own, parts, shots=shots)
    if k and "selector" not in parts:
        parts["selector"] = _default_selector(parts, k)
    if not k and "selector" in parts:
        raise UserError(f"{name}: k must be 1 or more, as a selector is named; got 0. Leave the selector out.")
    taught_by = _taught_by(name, call, parts, shots=shots)
    return Recipe(name, parts, k, order, calibration, *_contexts(name, own, k=k), members=taught_by)


def _check_teacher(name: str, call: Call, parts: Mapping[str, Any]) -> None:
    """Raise a UserError unless the teacher suits the tuner."""
    if parts["tuner"].over == "seen" and not parts["teacher"].only_chooses:
        raise UserError(
            f"{name}: over=seen learns the right answers, and a teacher says otherwise what is learnt. Leave one of "
            "the two out."
        )
    if parts["tuner"].makes:
        raise UserError(
            f"{name}: a teacher is asked about examples of the task, and '{call.name}' makes some of its own. Leave "
            "the teacher out."
        )
    if parts["tuner"].ties and parts["teacher"].replaces:
        raise UserError(
            f"{name}: what '{call.name}' asks in a lesson goes with its own example and answer, and the teacher puts "
            "others in their place. Leave the teacher out, or name one that keeps them, such as demonstrations."
        )
    if parts["teacher"].reads_all and not parts["tuner"].cuts_contexts:
        raise UserError(
            f"{name}: a teacher that reads all of a context has something to teach where the student reads a part, and "
            f"that of '{call.name}' reads all of it, too. Name the tuner windowed:teacher={call.settings['teacher']}."
        )


def _shown(name: str, own: Mapping[str, str], parts: Mapping[str, Part], *, shots: int) -> int:
    """Return how many demonstrations a recipe shows at most."""
    tuner = parts.get("tuner")
    if tuner is not None and "k" in setting_names(type(tuner)):
        return getattr(tuner, "k")  # noqa: B009 - a field of some tuners
    is_about_selector = "selector" in parts and not {"tuner", "steerer"} & parts.keys()
    return _count(name, own.get("k", str(shots if "selector" in parts else 0)), least=1 if is_about_selector else 0)


def _default_selector(parts: Mapping[str, Part], k: int) -> Part:
    """Return what chooses the demonstrations of a recipe that trains or steers and does not say."""
    tuner = parts.get("tuner")
    if tuner is None or getattr(tuner, "one_set", False):
        return Random()
    return AllPast(limit=k) if getattr(tuner, "fixed", False) else Random(fresh=True)


def _contexts(name: str, own: Mapping[str, str], *, k: int) -> tuple[int, str]:
    """Return how many contexts a recipe that shows `k` demonstrations averages over, and how."""
    n, mean = _count(name, own.get("contexts", "1"), "contexts", most=MOST_CONTEXTS), own.get("mean", MEANS[0])
    if mean not in MEANS:
        raise UserError(f"{name}: mean must be one of {', '.join(MEANS)}; got '{mean}'. Leave it out for {MEANS[0]}.")
    if own.keys() & {"contexts", "mean"} and not k:
        raise UserError(
            f"{name}: contexts are sets of demonstrations, and this recipe shows none. Give it k where it has that "
            "setting, or name one that shows some, such as random:contexts=8."
        )
    return n, mean


def _members(call: Call, combiner: Combiner, *, shots: int) -> tuple[Recipe, ...]:
    """Return the recipes that a combiner is given, each with one value for every setting.

    Those of a combiner that learns keep their own calibration: it combines calibrated probabilities.
    """
    if not call.members and combiner.takes_all:
        return ()
    if not call.members and combiner.usual:
        call = replace(call, members=combiner.usual)
    if len(call.members) > combiner.most_members:
        raise UserError(
            f"'{call.name}' combines {combiner.most_members} recipes at most; got {len(call.members)}. Name fewer, or "
            "mix them: mix(bm25, zero-shot)."
        )
    if len(call.members) < 2:
        raise UserError(
            f"'{call.name}' combines recipes and must be given two or more, such as {call.name}(bm25, zero-shot); got "
            f"{len(call.members)}."
        )
    for member in call.members:
        if call.members.count(member) > 1:
            raise UserError(
                f"'{call.name}' must be given different recipes; got '{member}' {call.members.count(member)} times. "
                "Several contexts of one are averaged by random:contexts=4."
            )
    members = tuple(parse_recipe(member, shots=shots, raced=False) for member in call.members)
    if inner := next((member for member in members if member.combines_run), None):
        raise UserError(
            f"'{call.name}' must be given recipes that are whole; '{inner.name}' names none of its own. Name them: "
            f"{inner.name}(bm25, zero-shot)."
        )
    combiner.check(members)
    return members if combiner.learns else tuple(replace(member, calibration="none") for member in members)


def _taught_by(name: str, call: Call, parts: Mapping[str, Any], *, shots: int) -> tuple[Recipe, ...]:
    """Return the recipe that a teacher passes on; none where no teacher does."""
    tuner: Any = parts.get("tuner")
    teacher: Any = parts.get("teacher")
    named = call.members or ((tuner.usual_recipe,) if tuner and tuner.usual_recipe else ())
    if teacher is None or not teacher.passes_on:
        if call.members:
            raise UserError(
                f"'{call.name}' takes settings alone, such as {call.name}:key=value; got '{call.members[0]}'. To put "
                f"a recipe into the weights: distil({call.members[0]})."
            )
        return ()
    if not named and teacher.does_without:
        return ()
    if len(named) != 1:
        raise UserError(
            f"{name}: the teacher passes on what one recipe says, named in brackets as in distil(random:k=16); got "
            f"{len(named)}. Name one, or mix several: distil(mix(random, bm25))."
        )
    recipe = parse_recipe(named[0], shots=shots, raced=False)
    if recipe.combines_run:
        raise UserError(
            f"{name}: the recipe in brackets must be whole; '{recipe.name}' names none of its own. Name them: "
            f"{recipe.name}(bm25, random)."
        )
    if recipe.changes_model or not recipe.asks_model or "classifier" in recipe.parts:
        what = "trains or steers the model" if recipe.changes_model else "asks no language model"
        raise UserError(
            f"{name}: the recipe in brackets must show prompts or combine some; '{recipe.name}' {what}. Name one such "
            "as random:k=16,contexts=8."
        )
    return (recipe,)


def _refuse(values: Iterable[str], owner: str, *, also: tuple[str, ...]) -> None:
    for key in values:
        raise UserError(f"'{owner}' has no setting '{key}'.{did_you_mean(key, also)}")


def _calibration(own: Mapping[str, str], base: str) -> str:
    calibration = own.get("calibration", CALIBRATIONS[0])
    if len(several := calibration.split("/")) > 1 and all(one in CALIBRATIONS for one in several):
        raise UserError(
            f"{base}: calibration must have one value, as it does not race inside a recipe; got '{calibration}'. Name "
            f"a recipe for each: {','.join(f'{base}:calibration={one}' for one in several)}."
        )
    if calibration not in CALIBRATIONS:
        raise UserError(f"{base}: calibration must be one of {', '.join(CALIBRATIONS)}; got '{calibration}'.")
    return calibration


def _count(name: str, text: str, what: str = "k", *, least: int = 1, most: int = MOST_SHOWN) -> int:
    if text.isdecimal() and (len(text) > 20 or int(text) > most):
        raise UserError(f"{name[:200]}: {what} must be a whole number, {most} or less; got '{text[:20]}'.")
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}: {what} must be a whole number, {least} or more; got '{text}'.")
    return int(text)
