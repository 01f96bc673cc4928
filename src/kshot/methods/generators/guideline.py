"""A guideline of several lists of steps: the steps that most of them have, in the order in which most have them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, Task
from kshot.methods.contracts import Generator, Made
from kshot.methods.generators.intake import Intake, likeness
from kshot.taskmodel.taskmodel import TaskModel

FEW_LISTS, FEW_STEPS = "too few lists of steps are of its kind", "too few steps are in most of its lists"
_NUMBERED = re.compile(r"\s*(?:(?:step\s*)?\d+\s*[.):]|[-*•])\s*", re.IGNORECASE)
LEAST_LISTS, LEAST_STEPS = 3, 2


@dataclass(frozen=True)
class Guideline(Generator):
    """An analogue of GUIDE: make of examples that list steps for the same thing one that says what they share.

    Steps are lines (or sentences, in a text of one line). Those of different lists are aligned one to one where they
    are alike, by words; a step that at least `share` of the lists have is one of the guideline, said as the list has it
    that is most like the others. A step comes before another where most lists that have both say so. Examples are of
    the same thing whose rows name the same `group` (a column of theirs); without such a column all are. The output of
    what is made is the guideline; its input is the group's name, or, without groups, the input that is most like the
    others with "in general" after it. No model is asked.

    Attributes:
        n: The most guidelines.
        share: Of the lists.
        alike: How like (ROUGE-L, 0 to 1) two steps must be to be the same.
        group: The column whose value names what a list is of.

    Source: an analogue of GUIDE (2024), A Guideline-Guided Dataset for Instructional Video Comprehension,
    https://arxiv.org/abs/2406.18227, where people write what videos of one task share.
    Differs: lists of steps in text, no videos; guidelines are mined by a rule, by words instead of embeddings.
    """

    share: float = setting(0.6, above=0, most=1)
    alike: float = setting(0.5, above=0, most=1)
    group: str = "group"

    least = LEAST_LISTS

    def suits(self, task: Task) -> bool:
        """Return whether outputs are texts, which can be lists of steps."""
        return task.kind == "generation"

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return a guideline for each group of examples; see `kshot.methods.contracts.Generator`."""
        intake = Intake("guideline", seeds, model.task)
        for name, own in self._groups(seeds).items():
            lists = [steps for e in own if len(steps := steps_of(e.output)) > 1]
            found = guideline(lists, share=self.share, alike=self.alike) if len(lists) >= LEAST_LISTS else []
            said = name or f"{_middle([e.input for e in own])}, in general"
            if len(lists) < LEAST_LISTS or len(found) < LEAST_STEPS:
                intake.reject(said, FEW_LISTS if len(lists) < LEAST_LISTS else FEW_STEPS)
            elif len(intake.taken) < self.n:
                text = "\n".join(f"{i}. {step}" for i, step in enumerate(found, 1))
                intake.take(Example(said, text, "draft"), own, n_lists=len(lists))
        return intake.made

    def _groups(self, seeds: Sequence[Example]) -> dict[str, list[Example]]:
        """Return the examples of each thing, by its name; without names all together."""
        groups: dict[str, list[Example]] = {}
        for e in seeds:
            groups.setdefault(str(e.meta.get(self.group, "")).strip(), []).append(e)
        return groups


def steps_of(text: str) -> list[str]:
    r"""Return the steps that a text lists: its lines without their numbers; of a single line its sentences.

    Example:
        >>> steps_of("1. Boil water.\n2. Add tea."), steps_of("Boil water. Add tea.")
        (['Boil water.', 'Add tea.'], ['Boil water.', 'Add tea.'])
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = re.split(r"(?<=[.!?;])\s+(?!$)", _NUMBERED.sub("", lines[0], count=1))
    return [step for line in lines if (step := _NUMBERED.sub("", line, count=1).strip())]


def guideline(lists: Sequence[Sequence[str]], *, share: float = 0.6, alike: float = 0.5) -> list[str]:
    """Return the steps that at least `share` of the lists have, in the order of most of them.

    Args:
        lists: The steps of each, in their order.
        share: Of the lists.
        alike: How like two steps must be to be the same (`likeness`).
    """
    kinds = [kind for kind in _aligned(lists, alike) if len(kind) >= share * len(lists)]
    before = np.zeros((len(kinds), len(kinds)))  # how many lists have one before the other, less those the other way
    for i, first in enumerate(kinds):
        for j, second in enumerate(kinds):
            before[i, j] = sum(np.sign(second[n] - first[n]) for n in first.keys() & second.keys())
    wins = np.sign(before).sum(1)  # Copeland's score: before how many, less after how many
    order = sorted(range(len(kinds)), key=lambda i: (-wins[i], -before[i].sum(), i))
    return [_middle([lists[n][place] for n, place in sorted(kinds[i].items())]) for i in order]


def _aligned(lists: Sequence[Sequence[str]], alike: float) -> list[dict[int, int]]:
    """Return the kinds of steps, each as list -> place in it; a list has a kind once."""
    kinds: list[dict[int, int]] = []
    for n, steps in enumerate(lists):
        known = [[lists[m][place] for m, place in kind.items()] for kind in kinds]
        likes = {
            (i, k): max(likeness(step, other) for other in own)
            for i, step in enumerate(steps)
            for k, own in enumerate(known)
        }
        for i, k in sorted(likes, key=lambda pair: (-likes[pair], pair)):
            if likes[i, k] >= alike and n not in kinds[k] and not any(kind.get(n) == i for kind in kinds):
                kinds[k][n] = i
        new = set(range(len(steps))) - {kind[n] for kind in kinds if n in kind}
        kinds += [{n: i} for i in sorted(new)]
    return kinds


def _middle(texts: Sequence[str]) -> str:
    """Return the text that is most like all of them, of equals the first."""
    return max(texts, key=lambda text: sum(likeness(text, other) for other in texts))
