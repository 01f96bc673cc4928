"""Fine-tuning: learn to answer an input that stands alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.types import Example
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw


@dataclass(frozen=True)
class FineTune(Tuner):
    """Learn from input to answer: in each step some of the examples seen so far.

    Attributes:
        steps: Steps of training for each new example.
        batch: Examples in a step, drawn from those seen. A batch of k + 1 learns as many answers in a step as `icl+ft`
            with k demonstrations.
        target: "any-seen" draws all of them; "current" always has the new one among them.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.

    Source: Bornschein et al. (2025), FT-Only in section 3, https://arxiv.org/abs/2512.19879.
    Differs: theirs is batch=1,target=current, which forgets what it has seen (docs/results/weights.md).
    """

    multi_label = True

    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        target, others = draw(seen, self.batch - 1, target=self.target, evenly=self.balanced, rng=rng)
        return [Lesson((), example) for example in (*others, target)]
