"""Linked contexts: learn to answer by what the demonstrations link, where nothing else can tell the label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.types import Example, Task
from kshot.methods.balance import balanced
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS

_ONSETS, _VOWELS = tuple("bdfgklmnprstvz"), tuple("aeiou")
_WHERE = ("in the garden", "on the road", "by the sea", "at the market", "under a tree", "near the house")
_HOW = ("a small", "an old", "a happy", "a quiet", "the other", "one more", "this", "the first")


@dataclass(frozen=True)
class Linked(Tuner):
    """Learn to label a query as its prompt's demonstrations do, with labels that mean nothing, others in each lesson.

    A lesson shows examples of some labels of the task, under random strings in place of the labels, and asks for one
    more of one of these labels: only the demonstrations can tell. Or it is about invented classes: a word that nobody
    knows, such as "blick", has its label wherever it stands. An answer is learnt among the lesson's own labels, with
    over=all among all texts. A query is asked with the task's real labels, after k demonstrations.

    An analogue in text of a method for images: novel classes are words, or labels without their names.

    Attributes:
        k: Demonstrations in a lesson, and in the prompt of a query.
        steps: Steps of training for each new example.
        batch: Lessons in a step.
        ways: The most labels in a lesson.
        target: What a lesson asks for: "any-seen" is any example so far, "current" the new one, if another one has its
            label.
        invented: How often a lesson is about invented classes; always as long as the examples allow no other.
        shuffled: Lessons link nothing: the demonstrations' labels are drawn anew for each. A control.

    Source: Tai et al. (2023), Link-Context Learning, https://arxiv.org/abs/2308.07891, and Wei et al. (2023), Symbol
    tuning, https://arxiv.org/abs/2305.08298.
    Differs: text instead of images; lessons are made from the user's own task; the query's label alone is learnt, among
    the lesson's.
    """

    k: int = setting(4, least=2, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    ways: int = setting(2, least=2, most=64)
    target: str = setting("any-seen", choices=TARGETS)
    invented: float = setting(0.25, least=0.0, most=1.0)
    shuffled: bool = False

    def suits(self, task: Task) -> bool:
        """Return whether the task has a list of labels, which can be renamed."""
        return task.kind == "classification"

    @property
    def makes(self) -> bool:
        """Whether lessons are of made-up labels."""
        return True

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        return [self._lesson(seen, rng) for _ in range(self.batch)]

    def _lesson(self, seen: Sequence[Example], rng: np.random.Generator) -> Lesson:
        is_invented = rng.random() < self.invented
        target = None if is_invented else self._asked(seen, rng)
        if target is None:
            before, target = invented_classes(self.k, self.ways, rng=rng)
        else:
            before = self._support(seen, target, rng)
        lesson = renamed(before, target, shuffled=self.shuffled, rng=rng)
        return replace(lesson, among=()) if self.over == "all" else lesson

    def _asked(self, seen: Sequence[Example], rng: np.random.Generator) -> Example | None:
        """Return an example that another one shares its label with, while there is a third one with another label."""
        counts = {label: sum(e.output == label for e in seen) for label in dict.fromkeys(e.output for e in seen)}
        fit = [e for e in seen if counts[e.output] > 1] if len(counts) > 1 else []
        if fit and self.target == "current" and fit[-1] is seen[-1]:
            return seen[-1]
        return fit[int(rng.integers(len(fit)))] if fit else None

    def _support(self, seen: Sequence[Example], target: Example, rng: np.random.Generator) -> tuple[Example, ...]:
        """Return as equal numbers as can be of examples of the target's label and some others, in any order."""
        others = [label for label in dict.fromkeys(e.output for e in seen) if label != target.output]
        labels = {target.output, *(others[i] for i in rng.permutation(len(others))[: self.ways - 1])}
        rest = [e for e in seen if e.output in labels and e.id != target.id]
        places = balanced([e.output for e in rest], self.k, rng=rng)
        if all(rest[i].output != target.output for i in places):  # fewer demonstrations than labels
            places[0] = next(i for i in rng.permutation(len(rest)) if rest[i].output == target.output)
        return tuple(rest[places[i]] for i in rng.permutation(len(places)))


def invented_classes(n: int, ways: int, *, rng: np.random.Generator) -> tuple[tuple[Example, ...], Example]:
    """Return `n` examples of invented classes in any order, and one more of one that is among them.

    An example says something of an invented word, which is its class, and its output.
    """
    words = nonsense(min(ways, n), rng=rng)
    classes = [words[int(i)] for i in rng.permutation(np.arange(n) % len(words))]
    asked = classes[int(rng.integers(n))]
    made = [
        Example(f"{_drawn(_WHERE, rng)} {_drawn(_HOW, rng)} {word}", word, f"made-{i}", meta={"made": "linked"})
        for i, word in enumerate([*classes, asked])
    ]
    return tuple(made[:-1]), made[-1]


def renamed(before: Sequence[Example], target: Example, *, rng: np.random.Generator, shuffled: bool = False) -> Lesson:
    """Return the lesson of examples under random labels, the same for examples of the same output.

    Args:
        before: The demonstrations.
        target: What is asked.
        rng: For every random choice.
        shuffled: Labels of the demonstrations are drawn anew for each, so that they tell nothing of the target's.
    """
    known = dict.fromkeys((*(e.output for e in before), target.output))
    taken = {word for e in (*before, target) for word in e.text.lower().split()}
    names = dict(zip(known, nonsense(len(known), rng=rng, but=taken), strict=True))
    said = [names[e.output] for e in before]
    if shuffled:
        said = [said[i] for i in rng.integers(len(said), size=len(said))]
    shown = tuple(_called(e, label) for e, label in zip(before, said, strict=True))
    asked = _called(target, names[target.output])
    among = tuple(names.values())
    return Lesson(shown, asked, "last", among=among, instruction="", is_apart=True)


def nonsense(n: int, *, rng: np.random.Generator, but: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """Return `n` different words that mean nothing, such as "zupora", no two with the same beginning.

    Args:
        n: At most 70.
        rng: For every random choice.
        but: Words that are not to be among them.
    """
    starts = [a + b for a in _ONSETS for b in _VOWELS]
    words = []
    for i in rng.permutation(len(starts))[:n]:
        while True:
            word = starts[i] + "".join(_drawn(_ONSETS, rng) + _drawn(_VOWELS, rng) for _ in range(2))
            if word not in but:
                words.append(word)
                break
    return words


def _called(example: Example, label: str) -> Example:
    meta = {**example.meta, "made": "linked"}
    return replace(example, output=label, references=(), explanation=None, meta=meta)


def _drawn(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
