"""Problems of arithmetic with what a student gets wrong in each, and the words that help against it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kshot.core.types import Example
from kshot.methods.loops.tutoring import ScriptedStudent
from kshot.tasks.mathdial import Dialogue

_NAMES = ("Ada", "Ben", "Cleo", "Dov", "Edda", "Finn")


@dataclass(frozen=True)
class StudentProblem:
    """A problem, and the student who gets it wrong.

    Attributes:
        example: The problem with its answer, and its `skill` in `meta` where it is known.
        attempt: What the student says first.
        profile: Who the student is, for a model that plays it.
        keys: Words of a tutor that make a scripted student understand; none where nobody has said any.
    """

    example: Example
    attempt: str
    profile: str
    keys: tuple[str, ...] = ()

    @property
    def scripted(self) -> ScriptedStudent:
        """The student as a script."""
        return ScriptedStudent(self.attempt, self.keys, self.example.output)

    @classmethod
    def of(cls, dialogue: Dialogue, number: int) -> "StudentProblem":
        """Return the problem of a dialogue in MathDial's format."""
        profile = " ".join(filter(None, (dialogue.profile, dialogue.confusion)))
        return cls(Example(dialogue.question, dialogue.answer, f"{dialogue.id}-{number}"), dialogue.attempt, profile)


def _groups(a: int, b: int, name: str) -> tuple[str, int, int]:
    return f"{name} has {a} bags with {b} apples in each. How many apples does {name} have?", a * b, a + b


def _order(a: int, b: int, name: str) -> tuple[str, int, int]:
    return f"What is {a} + {b} * 3?", a + b * 3, (a + b) * 3


def _carry(a: int, b: int, name: str) -> tuple[str, int, int]:
    first, second = 10 * a + 8, 10 * b + 7
    return f"What is {first} + {second}?", first + second, first + second - 10


def _percent(a: int, b: int, name: str) -> tuple[str, int, int]:
    return f"{name} spends {10 * a} percent of {10 * b} coins. How many coins are spent?", a * b, 10 * a


def _metres(a: int, b: int, name: str) -> tuple[str, int, int]:
    return f"A rope is {a} metres and {b} centimetres long. How many centimetres is that?", 100 * a + b, 10 * a + b


# What has to be known: the problem with its answer and the wrong one, what the student thinks, and words that help
_SKILLS: dict[str, tuple[Callable[[int, int, str], tuple[str, int, int]], str, tuple[str, ...]]] = {
    "groups": (_groups, "adds where one must multiply", ("multipl", "times", "each bag", "equal groups")),
    "order": (_order, "works from left to right", ("order of operations", "multiplication first", "before you add")),
    "carry": (_carry, "forgets what is carried", ("carry", "carried", "extra ten", "regroup")),
    "percent": (_percent, "takes the percentage for the number", ("out of 100", "hundred", "divide", "fraction")),
    "metres": (
        _metres,
        "thinks that a metre has ten centimetres",
        ("100 centimetres", "hundred centimetres", "convert"),
    ),
}
SKILLS = tuple(_SKILLS)


def made_problems(n: int, *, rng: np.random.Generator) -> list[StudentProblem]:
    """Return `n` problems, of each skill in turn, whose students begin with a wrong answer."""
    found = list[StudentProblem]()
    while len(found) < n:
        skill = SKILLS[len(found) % len(SKILLS)]
        ask, thought, keys = _SKILLS[skill]
        a, b = (int(i) for i in rng.integers(2, 10, size=2))
        question, answer, wrong = ask(a, b, _NAMES[int(rng.integers(len(_NAMES)))])
        if answer == wrong or f" {answer} " in f" {question} ":  # so a tutor who repeats the question tells nothing
            continue
        example = Example(question, str(answer), f"problem-{len(found) + 1}", meta={"skill": skill})
        found.append(StudentProblem(example, f"It is {wrong}.", f"You are a student who {thought}.", keys))
    return found
