"""Context-informed grounding supervision: the passage stands before the answer, and the answer alone is learnt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.script import Script
from kshot.core.types import Example, Task
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw
from kshot.methods.tuners.held_answers import remark_on_answers
from kshot.taskmodel.taskmodel import TaskModel

PLACES, MODES = ("after", "before"), ("grounded", "no_context", "no_mask")


@dataclass(frozen=True)
class Cings(Tuner):
    """Learn each answer right after its passage, so that the model leans on what it is given.

    The loss of a lesson is -sum_t log p(y_t | x, c, y_<t) over the tokens of the answer y, with the question x and the
    passage c, the row's `context`.

    Attributes:
        steps: Steps of training for each new example.
        batch: Examples in a step, drawn from those seen.
        target: "any-seen" draws all of them; "current" always has the new one among them.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.
        passage: Where it stands, in lessons and when a question is asked: "after" the question, directly before the
            answer, or "before" the question, as in all other recipes.
        mode: To compare with: "no_context" learns from lessons without their passage, "no_mask" learns the tokens of
            the passage too.

    Source: Lee et al. (2025), Context-Informed Grounding Supervision, https://arxiv.org/abs/2506.15480.
    Differs: LoRA along a stream of few examples in place of three epochs; the passage is the row's own, and none is
    looked for; the learning rate is ours, as theirs is not public.
    """

    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False
    passage: str = setting("after", choices=PLACES)
    mode: str = setting("grounded", choices=MODES)

    uses_contexts = True

    @property
    def ties(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether lessons are not those of the rows as they are."""
        return self.mode != "grounded"

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        target, others = draw(seen, self.batch - 1, target=self.target, evenly=self.balanced, rng=rng)
        return [self._lesson(example) for example in (*others, target)]

    def _lesson(self, example: Example) -> Lesson:
        if self.mode == "no_context":
            return Lesson((), replace(example, context=None), "last")
        return Lesson((), example, "passage" if self.mode == "no_mask" and example.context else "last")

    def told(self, script: Script, *, asked: str, model: TaskModel) -> Script:
        """Return the script with each passage where it belongs; see `kshot.methods.contracts.Tuner`."""
        return script.passages_last() if self.passage == "after" else script

    def caution(self, task: Task) -> str | None:
        """Return that no passage holds its answer, where that is so."""
        return remark_on_answers("cings", task)
