"""Made-up towns with rules that nobody can know, and questions that the rules answer: the small suite of `rubrics`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb, factorial

import numpy as np

from kshot.evaluators.rubric_items import Rubric, RubricItem

CATEGORIES = ("units", "gates", "ranks", "trade")
_FIRST, _VOWELS, _LAST = "bdfgklmnprstvz", "aeiou", "lnrskm"
_GATES = ("red", "blue", "green", "white")
_GOODS = ("salt", "wool", "glass", "honey", "rope", "paper", "tin", "corn", "silk", "coal", "wax", "oil")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def invented_items(n: int, *, rng: np.random.Generator) -> list[RubricItem]:
    """Return four tasks of each of `n` invented towns, one of each category.

    A town's rules are its system message, some 250 tokens long; each question says in which form it wants its answer,
    and among what there is to choose, so that guessing without the rules is right as often as `chance` says.
    """
    return [item for number in range(n) for item in _Town.made(number, rng).items(rng)]


@dataclass(frozen=True)
class _Town:
    name: str
    number: int
    units: tuple[str, ...]  # three, the largest first
    factors: tuple[int, ...]  # two
    gates: tuple[tuple[str, str], ...]  # what is carried, and its gate
    ranks: tuple[str, ...]  # the highest first
    sold: tuple[str, ...]
    kept: tuple[str, ...]

    @classmethod
    def made(cls, number: int, rng: np.random.Generator) -> "_Town":
        name, *words = _names(8, rng)
        goods = [_GOODS[i] for i in rng.permutation(len(_GOODS))]
        gates = tuple(zip(goods[:4], (_GATES[i] for i in rng.permutation(4)), strict=True))
        factors = tuple(int(i) for i in rng.integers(3, 10, size=2))
        parts = tuple(words[:3]), factors, gates, tuple(words[3:7]), tuple(goods[4:6]), tuple(goods[6:8])
        return cls(name.capitalize(), number, *parts)

    @property
    def rules(self) -> str:
        """What is told of the town."""
        a, b, c = self.units
        first, second = (_NUMBERS[n] for n in self.factors)
        lines = [
            f"Rules of the town of {self.name}",
            f"1. Grain is measured in {a}, {b} and {c}. One {a} is {first} {b}. One {b} is {second} {c}.",
            "2. Visitors enter by one of four gates, by what they carry. "
            + " ".join(f"Who carries {good} enters by the {gate} gate." for good, gate in self.gates),
            "3. There are four offices. "
            + " ".join(f"The {x} stands above the {y}." for x, y in zip(self.ranks, self.ranks[1:], strict=False)),
            f"4. On market day {_listed(self.sold)} may be sold. On that day {_listed(self.kept)} may not be sold.",
        ]
        return "\n".join(lines)

    def items(self, rng: np.random.Generator) -> Iterator[RubricItem]:
        """Yield a task of each category."""
        how_many, which = int(rng.integers(2, 10)), int(rng.integers(2))
        large, small = self.units[which : which + 2]
        yield self._item(
            "units",
            f"In {self.name}, how many {small} are {how_many} {large}? Answer with the number in digits.",
            (Rubric("number", number=how_many * self.factors[which]),),
            0.0,
        )
        good, gate = self.gates[int(rng.integers(4))]
        yield self._item(
            "gates",
            f"By which gate does a visitor who carries {good} enter {self.name}: {_listed(_GATES, 'or')}? Answer with "
            "one word.",
            (Rubric("set", items=(gate,), among=_GATES),),
            1 / len(_GATES),
        )
        three = [self.ranks[i] for i in sorted(rng.permutation(4)[:3])]
        yield self._item(
            "ranks",
            f"Name these offices of {self.name} from the highest to the lowest, with commas between them: "
            f"{', '.join(sorted(three))}.",
            (Rubric("set", items=tuple(three)), Rubric("order", items=tuple(three))),
            1 / factorial(3),
        )
        goods = sorted((*self.sold, *self.kept))
        yield self._item(
            "trade",
            f"Which two of {_listed(goods)} may be sold on market day in {self.name}? Name both, with a comma between "
            "them.",
            (Rubric("set", items=self.sold, among=tuple(goods)),),
            1 / comb(4, 2),
        )

    def _item(self, category: str, question: str, rubrics: tuple[Rubric, ...], chance: float) -> RubricItem:
        return RubricItem(
            f"{self.number}-{category}",
            self.name,
            category,
            (("system", self.rules), ("user", question)),
            rubrics,
            chance=chance,
        )


def _names(n: int, rng: np.random.Generator) -> list[str]:
    """Return invented words that begin differently."""
    found = list[str]()
    for first in (_FIRST[i] for i in rng.permutation(len(_FIRST))[:n]):
        middle, end = _FIRST[int(rng.integers(len(_FIRST)))], _LAST[int(rng.integers(len(_LAST)))]
        one, two = (_VOWELS[int(rng.integers(len(_VOWELS)))] for _ in range(2))
        found.append(f"{first}{one}{middle}{two}{end}")
    return found


def _listed(words: Sequence[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
