"""Lessons: clumsy step lists become clean ones, each with what is to be learnt from it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.models import Capability
from kshot.core.types import Example, Task
from kshot.methods.contracts import Generator, Made
from kshot.methods.kitchen import Kitchen
from kshot.methods.trajectory_memory import TrajectoryMemory, remembered
from kshot.taskmodel.taskmodel import TaskModel

_LESSON = re.compile(r"(?i)^\s*lesson\s*:\s*(?P<text>.+)$", re.MULTILINE)
_ASKED = (
    "{shown}Somebody did this, in steps, some of which are of no use.\n\nTask: {task}\nSteps:\n{steps}\n{feedback}\n"
    "Write the steps without those that are of no use, one a line, and then in one line 'Lesson:' and what is to be "
    "learnt from it.\nSteps:\n"
)


@dataclass(frozen=True)
class Lessons(Generator):
    """Let the model clean the step lists of examples, and say the lesson of each.

    An example's output is a list of steps, one a line. The model is asked for the steps that are of use and for a
    lesson, and is shown `k` cleaned ones that are most like it, looked up in the memory of those before. What it
    writes is checked: steps may be left out and none added; in a kitchen (`kshot.methods.kitchen`), where steps can be
    made, they must reach the goal. What is wrong with it is told to it, up to `turns` times. A list that became
    shorter is made an example of its own, whose explanation is the lesson; the others are rejected, with the reason.

    Attributes:
        turns: How often it may try, each time told what was wrong.
        k: Cleaned examples that it is shown.
        tokens: The most tokens of what it writes.

    Source: Sarch et al. (2024), ICAL, https://arxiv.org/abs/2406.14596.
    Differs: an analogue in words, without images, predicted states or subgoals; what people correct there is checked
    here, by the world or by what was given; the lesson is one line.
    """

    turns: int = setting(2, least=1, most=20)
    k: int = setting(1, least=0, most=20)
    tokens: int = setting(128, least=1, most=4096)

    needs = frozenset({Capability.GENERATE})
    repeats = True

    def suits(self, task: Task) -> bool:
        """Return whether outputs are texts."""
        return task.is_open

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return the cleaned examples; see `kshot.methods.contracts.Generator`."""
        made, rejected = list[Example](), list[tuple[str, str]]()
        for seed in seeds:
            if len(made) == self.n:
                break
            given = steps_of(seed.output)
            if len(given) < 2:
                rejected.append((seed.input, "it has less than two steps"))
                continue
            found = self._cleaned(seed, given, made, model, int(rng.integers(2**31)))
            if isinstance(found, str):
                rejected.append((seed.input, found))
            else:
                made.append(found)
        return Made(tuple(made), tuple(rejected))

    def _cleaned(
        self, seed: Example, given: Sequence[str], before: Sequence[Example], model: TaskModel, draw: int
    ) -> Example | str:
        """Return the example that was cleaned, or why it was not."""
        like = self._like(seed, before)
        shown = "".join(f"Task: {e.text}\nSteps:\n{e.output}\nLesson: {e.explanation}\n\n" for e in like)
        feedback, why = "", "nothing was written"
        for turn in range(self.turns):
            asked = _ASKED.format(shown=shown, task=seed.text, steps="\n".join(given), feedback=feedback)
            text = model.write(asked, max_tokens=self.tokens, seed=draw + turn).text
            lesson, steps = _LESSON.search(text), steps_of(_LESSON.sub("", text))
            fault = fault_of(seed, given, steps) or ("it says no lesson" if lesson is None else None)
            if fault is None and lesson is not None:
                meta = {**seed.meta, "made": "lessons", "from": [seed.id]}
                about = {"explanation": lesson["text"].strip(), "references": (), "meta": meta}
                return replace(seed, output="\n".join(steps), id=f"{seed.id}~lesson", **about)
            why = str(fault)
            feedback = f"(An attempt was wrong: {why}.)\n"
        return why

    def _like(self, seed: Example, before: Sequence[Example]) -> list[Example]:
        if not (self.k and before):
            return []
        asked = remembered(seed)
        memory = TrajectoryMemory([remembered(e) for e in before])
        return memory.looked_up(asked.task, asked.state, asked.actions, k=self.k)[::-1]


def steps_of(text: str) -> tuple[str, ...]:
    r"""Return the steps of a text, one a line, without their numbers.

    Example:
        >>> steps_of("1. go to the sink\n\n- take the mug")
        ('go to the sink', 'take the mug')
    """
    lines = (re.sub(r"^\s*(?:\d+[.)]|[-*])\s*", "", line).strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def fault_of(seed: Example, given: Sequence[str], steps: Sequence[str]) -> str | None:
    """Return what is wrong with steps that should be those of an example without what is of no use; None: nothing."""
    left = iter(given)
    if not all(step in left for step in steps):
        return "it has steps that were not there, or in another order"
    if not steps:
        return "it has no step"
    if (kitchen := Kitchen.of(seed.text)) and (fault := kitchen.fault(steps)):
        return fault
    return "nothing was left out" if len(steps) == len(given) else None
