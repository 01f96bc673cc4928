"""Slots and names: which room's methods can stand in which slot, and what a recipe can begin with."""

from collections.abc import Mapping

from kshot.core.errors import UserError, did_you_mean
from kshot.core.plugins import Room, is_own, own_class
from kshot.methods.classifiers import CLASSIFIERS
from kshot.methods.combiners import COMBINERS
from kshot.methods.composers import COMPOSERS
from kshot.methods.generators import GENERATORS
from kshot.methods.loops import LOOPS
from kshot.methods.selectors import SELECTORS
from kshot.methods.steerers import STEERERS
from kshot.methods.teachers import TEACHERS
from kshot.methods.tuners import TUNERS

ZERO_SHOT = "zero-shot"
# In the order in which they work together, at every refit point, on the past alone
SLOTS: Mapping[str, Room] = {
    "generator": GENERATORS,
    "loop": LOOPS,
    "selector": SELECTORS,
    "composer": COMPOSERS,
    "tuner": TUNERS,
    "teacher": TEACHERS,
    "steerer": STEERERS,
    "classifier": CLASSIFIERS,
    "combiner": COMBINERS,
}
# A recipe is about a method in one of these slots, and is named after it; in this order recipes run. A method of
# another slot does nothing alone.
# Recipes with settings of their own that "all" stands for too: averaging helps the cheapest choice most
_ALSO: Mapping[str, tuple[str, ...]] = {"random": ("random:contexts=8",)}
_FIRST, _LATER = ("classifier",), ("selector", "steerer", "tuner")


def known_recipes() -> dict[str, str | None]:
    """Return the names of recipes with the slot that each names; zero-shot fills none. They run in this order."""
    first, later = ({name: slot for slot in slots for name in SLOTS[slot]} for slots in (_FIRST, _LATER))
    combiners = {name: COMBINERS.find(name) for name in COMBINERS}
    last = {name: "combiner" for name, cls in combiners.items() if cls.takes_all or cls.usual}
    return {**first, ZERO_SHOT: None, **later, **last}


def cheap_recipes() -> list[str]:
    """Return those that "all" stands for: each does something alone, and none has to be asked for by name."""
    on_request = {name for room in SLOTS.values() for name in room.on_request}
    names = (name for name in known_recipes() if name not in on_request)
    return [one for name in names for one in (name, *_ALSO.get(name, ()))]


def about_contexts() -> list[str]:
    """Return the names of recipes that are about how a model uses the context of a row."""
    return [name for name, slot in known_recipes().items() if slot and SLOTS[slot].find(name).uses_contexts]


def slot_of(name: str) -> str | None:
    """Return the slot that the method a recipe is about fills; None for zero-shot.

    Raises:
        UserError: Nobody knows the name, or a recipe cannot be about such a method.
    """
    if name == ZERO_SHOT:
        return None
    alone = (*_FIRST, *_LATER, "combiner")
    if is_own(name):
        cls = own_class(name)
        slot = next((s for s, r in SLOTS.items() if isinstance(cls, type) and issubclass(cls, r.contract)), None)
        SLOTS[slot or "selector"].check(cls, name)
    else:
        slots = [s for s in SLOTS if name in SLOTS[s]]  # before packages are asked, which reads a file of each
        slots = slots or [s for s in SLOTS if SLOTS[s].knows(name)]
        slot = min(slots, key=lambda s: s not in alone, default=None)  # a method of two slots, as `skills`
    if slot is None:
        raise UserError(f"there is no recipe '{name}'.{did_you_mean(name, [*known_recipes(), *COMBINERS])}")
    if slot not in alone:
        about = "fine-tune" if slot == "teacher" else "random"
        raise UserError(
            f"'{name}' is a {slot}, which does nothing alone; put it into a recipe, as {about}:{slot}={name}."
        )
    return slot
