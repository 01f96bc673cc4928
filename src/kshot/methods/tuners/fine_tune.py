"""Fine-tuning: learn to answer an input that stands alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.lessons import Lesson
from kshot.core.objective_settings import Answers
from kshot.core.types import Example
from kshot.methods.tuners.drawing import check_least, check_target, draw


@dataclass(frozen=True)
class FineTune:
    """Learn from input to answer: in each step some of the examples seen so far.

    Attributes:
        steps: Steps of training for each new example.
        batch: Examples in a step, drawn from those seen. A batch of k + 1 learns as many answers in a step as `icl+ft`
            with k demonstrations.
        target: "any-seen" draws all of them; "current" always has the new one among them.

    Source: Bornschein et al. (2025), FT-Only in section 3, https://arxiv.org/abs/2512.19879.
    Differs: theirs is batch=1,target=current, which forgets what it has seen (docs/results/weights.md).
    """

    steps: int = 1
    batch: int = 4
    target: str = "any-seen"

    k = 0
    fixed = False
    objective = Answers()

    def __post_init__(self):
        check_least("steps", self.steps, 1)
        check_least("batch", self.batch, 1)
        check_target(self.target)

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.core.methods.Tuner`."""
        target, others = draw(seen, self.batch - 1, target=self.target, rng=rng)
        return [Lesson((), example) for example in (*others, target)]
