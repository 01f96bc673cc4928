"""In-context fine-tuning: learn to answer after demonstrations, drawn anew for every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.types import Example
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw

LOSSES = ("all", "last")


@dataclass(frozen=True)
class IclFt(Tuner):
    """Learn every answer of prompts with `k` demonstrations that are drawn from the past for each step.

    Attributes:
        k: Demonstrations in a training text, and in the prompt of a query.
        steps: Steps of training for each new example.
        target: What stands last: "any-seen" is any example so far, "current" the new one.
        loss: "all" answers of the text are learnt, or the "last" one.
        fixed: The demonstrations are always the first `k` of the stream, instead of drawn anew for every step.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.
        reuse: The first step learns the prompt from which the new example was predicted.

    Source: Bornschein et al. (2025), Algorithm 1, https://arxiv.org/abs/2512.19879.
    Differs: i - 1 where the paper prints i examples of the past; the target is any example seen, as the paper's text
    says, not the new one, as its algorithm says (target=current); `reuse` is off.
    """

    multi_label = True

    k: int = setting(3, least=0, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    target: str = setting("any-seen", choices=TARGETS)
    loss: str = setting("all", choices=LOSSES)
    fixed: bool = False  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    balanced: bool = False
    reuse: bool = False

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lesson of one step; see `kshot.methods.contracts.Tuner`."""
        learnt = "last" if self.loss == "last" else "answers"
        if self.reuse and step == 0:
            return [Lesson(tuple(shown()), seen[-1], learnt)]
        target, others = draw(seen, self.k, target=self.target, evenly=self.balanced, rng=rng)
        if self.fixed:
            others = tuple(e for e in seen[: self.k] if e is not target)
        return [Lesson(others, target, learnt)]
