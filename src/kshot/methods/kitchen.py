"""A small kitchen in words: things at places, one hand, and trajectories that can be checked step by step."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.types import Example

PLACES = ("table", "sink", "shelf", "fridge", "stove")
THINGS = ("mug", "plate", "pan", "apple", "knife", "bread")
_GOAL = re.compile(r"Put the (?P<thing>\w+) (?:in|on) the (?P<place>\w+)\.")
_AT = re.compile(r"You are at the (?P<place>\w+)\.")
_THING = re.compile(r"The (?P<thing>\w+) is at the (?P<place>\w+)\.")
_STEP = re.compile(r"(?P<what>go to|take|put down) the (?P<name>\w+)")


@dataclass(frozen=True)
class Kitchen:
    """What is where, and what is to be done.

    Attributes:
        thing: The goal's.
        goal: The place where it must be in the end.
        at: Where one stands.
        things: Where each thing is; "hand" is one place.
    """

    thing: str
    goal: str
    at: str
    things: Mapping[str, str]

    @property
    def text(self) -> str:
        """The goal and the state, as an input."""
        where = " ".join(f"The {thing} is at the {place}." for thing, place in self.things.items())
        return f"Put the {self.thing} on the {self.goal}. You are at the {self.at}. {where}"

    @classmethod
    def of(cls, text: str) -> "Kitchen | None":
        """Return the kitchen of an input; None where it is none."""
        goal, at = _GOAL.search(text), _AT.search(text)
        things = {found["thing"]: found["place"] for found in _THING.finditer(text)}
        if not (goal and at and goal["thing"] in things):
            return None
        return cls(goal["thing"], goal["place"], at["place"], things)

    def after(self, step: str) -> "Kitchen | None":
        """Return the kitchen after a step; None where the step cannot be made."""
        found = _STEP.fullmatch(step.strip(" ."))
        if not found:
            return None
        what, name = found["what"], found["name"]
        if what == "go to":
            return replace(self, at=name) if name in PLACES else None
        if what == "take":
            is_free = "hand" not in self.things.values() and self.things.get(name) == self.at
            return replace(self, things={**self.things, name: "hand"}) if is_free else None
        return replace(self, things={**self.things, name: self.at}) if self.things.get(name) == "hand" else None

    def fault(self, steps: Sequence[str]) -> str | None:
        """Return what is wrong with a trajectory, in words; None: it reaches the goal."""
        now: Kitchen | None = self
        for i, step in enumerate(steps):
            now = now.after(step)
            if now is None:
                return f"step {i + 1}, '{step}', cannot be made"
        return None if now.things[self.thing] == self.goal else "it does not reach the goal"

    @property
    def best(self) -> tuple[str, ...]:
        """The shortest trajectory."""
        place = self.things[self.thing]
        if place == self.goal:
            return ()
        first = () if place == self.at else (f"go to the {place}",)
        return (*first, f"take the {self.thing}", f"go to the {self.goal}", f"put down the {self.thing}")


def drawn_kitchen(rng: np.random.Generator) -> Kitchen:
    """Return a kitchen whose goal is not reached."""
    chosen = [THINGS[i] for i in rng.permutation(len(THINGS))[:3]]
    things = {thing: str(rng.choice(PLACES)) for thing in chosen}
    goal = str(rng.choice([place for place in PLACES if place != things[chosen[0]]]))
    return Kitchen(chosen[0], goal, str(rng.choice(PLACES)), things)


def clumsy(kitchen: Kitchen, rng: np.random.Generator, detours: int = 2) -> tuple[str, ...]:
    """Return a trajectory that reaches the goal with steps that are of no use: walks, and things put down at once."""
    steps = list(kitchen.best)
    for _ in range(detours):
        at = int(rng.integers(len(steps) + 1))
        aside = str(rng.choice(PLACES))
        now = kitchen
        for step in steps[:at]:
            now = now.after(step) or now
        steps[at:at] = [f"go to the {aside}", f"go to the {now.at}"]
    return tuple(steps)


def example_of(kitchen: Kitchen, steps: Sequence[str], name: str) -> Example:
    """Return a trajectory as an example: a step a line."""
    return Example(kitchen.text, "\n".join(steps), name)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many steps must be added, left out or changed to make one trajectory of another.

    Example:
        >>> edit_distance(("take", "go", "put"), ("go", "go", "put", "rest"))
        2
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(last + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]
