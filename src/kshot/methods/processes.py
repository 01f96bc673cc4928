"""Made-up processes with known probabilities: urns, coins, ranges of numbers, people with opinions.

What one says does not depend on what it has said before, so its samples can come in any order. One of five is held out
for measuring: those whose numbers add up to a multiple of five are drawn where `held_out` is asked, and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.types import Example, FloatArray

_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "pink")
_VESSELS = {"An urn": "balls", "A bag": "marbles", "A box": "buttons", "A jar": "beads"}
_COINS = ("A coin", "A bent coin", "A worn coin", "A token")
_SIDES = (("heads", "tails"), ("up", "down"), ("yes", "no"))
_PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jo", "Kim", "Lea", "Max", "Nils")
_OPINIONS = (("good", "fine", "bad"), ("love", "like", "avoid"), ("often", "seldom", "never"))
_THINGS = (
    ("apple", "pear", "plum", "grape", "peach"),
    ("bread", "rice", "pasta", "oats", "corn"),
    ("tea", "milk", "juice", "water", "coffee"),
    ("chess", "tennis", "cards", "rowing", "dancing"),
)


@dataclass(frozen=True)
class Process:
    """Something that says an output for an input, by known probabilities.

    Attributes:
        kind: One of `KINDS`.
        description: What is told of it.
        inputs: What it can be asked.
        outcomes: What it can say, different texts.
        probs: Of each outcome for each input, rows that sum to 1: `probs[i][j]`.
    """

    kind: str
    description: str
    inputs: tuple[str, ...]
    outcomes: tuple[str, ...]
    probs: tuple[tuple[float, ...], ...]

    def sample(self, n: int, *, rng: np.random.Generator) -> tuple[Example, ...]:
        """Return `n` examples: an input, each with the same chance, and what the process says, drawn anew each time."""
        asked = rng.integers(len(self.inputs), size=n)
        said = [int(rng.choice(len(self.outcomes), p=self.probs[at])) for at in asked]
        return tuple(
            Example(self.inputs[at], self.outcomes[j], f"made-{self.kind}-{i}", meta={"made": self.kind})
            for i, (at, j) in enumerate(zip(asked, said, strict=True))
        )

    def chances(self, question: str) -> FloatArray:
        """Return the probability of each outcome for an input, `[n_outcomes]`."""
        return np.array(self.probs[self.inputs.index(question)])


def make_process(kind: str, *, rng: np.random.Generator, held_out: bool = False) -> Process:
    """Return a process of a kind, drawn anew until it is one for learning, or one that is held out.

    Args:
        kind: One of `KINDS`.
        rng: For every random choice.
        held_out: For measuring: no such process is made where this is False.
    """
    while True:
        process, numbers = _MAKERS[kind](rng)
        if (sum(numbers) % 5 == 0) == held_out:
            return process


def _urn(rng: np.random.Generator) -> tuple[Process, Sequence[int]]:
    vessel = _one(tuple(_VESSELS), rng)
    colours = [_COLOURS[i] for i in rng.permutation(len(_COLOURS))[: int(rng.integers(2, 5))]]
    counts = rng.integers(1, 10, size=len(colours)).tolist()
    named = [f"{n} {colour}" for n, colour in zip(counts, colours, strict=True)]
    said = f"{vessel} holds {', '.join(named[:-1])} and {named[-1]} {_VESSELS[vessel]}. One is drawn and put back."
    return Process("urn", said, ("a draw",), tuple(colours), (_shares(counts),)), counts


def _coin(rng: np.random.Generator) -> tuple[Process, Sequence[int]]:
    coin, sides, percent = _one(_COINS, rng), _one(_SIDES, rng), int(rng.integers(3, 98))
    said = f"{coin} shows {sides[0]} in {percent} of 100 throws, and else {sides[1]}."
    return Process("coin", said, ("a throw",), sides, (_shares([percent, 100 - percent]),)), [percent]


def _range(rng: np.random.Generator) -> tuple[Process, Sequence[int]]:
    low, n = int(rng.integers(0, 900)), int(rng.integers(4, 60))
    outcomes = tuple(str(low + i) for i in range(n))
    said = f"A whole number from {low} to {low + n - 1}, each with the same chance."
    return Process("range", said, ("a number",), outcomes, (_shares([1] * n),)), [low, n]


def _persona(rng: np.random.Generator) -> tuple[Process, Sequence[int]]:
    """Make somebody with an opinion on each kind of things, from which one of ten answers strays."""
    person, opinions = _one(_PEOPLE, rng), _one(_OPINIONS, rng)
    liked = rng.integers(len(opinions), size=len(_THINGS)).tolist()
    rows = {
        thing: tuple(0.9 if j == at else 0.05 for j in range(3))
        for at, things in zip(liked, _THINGS, strict=True)
        for thing in things
    }
    said = f"What {person} says of things: {', '.join(opinions)}."
    return Process("persona", said, tuple(rows), opinions, tuple(rows.values())), [
        at * 3**i for i, at in enumerate(liked)
    ]


_MAKERS: Mapping[str, Callable[[np.random.Generator], tuple[Process, Sequence[int]]]] = {
    "urn": _urn,
    "coin": _coin,
    "range": _range,
    "persona": _persona,
}
KINDS = tuple(_MAKERS)


def _one(options: Sequence, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _shares(counts: Sequence[int]) -> tuple[float, ...]:
    return tuple(n / sum(counts) for n in counts)
