"""A small module learns to read demonstrations for a model that stays as it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting, setting_names
from kshot.core.lessons import Lesson, Resampling, Training
from kshot.core.types import Example
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw


@dataclass(frozen=True)
class ContextAdapter(Tuner):
    """Put a few vectors in the place of demonstrations, made by a small module; only that is trained.

    The module (`kshot.models.resampler`) reads the model's own embeddings of `k` demonstrations, in whatever order, and
    says them in `latents` vectors, which the model runs once; a query then costs its own tokens. Each step learns an
    answer after demonstrations that are drawn anew. Without demonstrations the model is as it was.

    Attributes:
        weights: "resampler": the module.
        rank: The module's width; 0 is the largest of 128, 64, … 4 with which it has less than 5 % of the model's
            parameters, and more is an error.
        latents: Vectors in place of the demonstrations.
        k: Demonstrations in a lesson, and before a query: one set for the task, unless a selector chooses.
        steps: Steps of training for each new example.
        batch: Lessons in a step, each with its own demonstrations.
        target: What a lesson asks: "any-seen" is any example so far, "current" the new one.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.

    Source: an analogue for text of M2IXT, Chen et al. (2023), https://arxiv.org/abs/2310.05109.
    Differs: theirs reads images and texts for a multimodal model, and is trained on a mixture of tasks; here it is the
    task's own past. Sizes are ours; the order of the demonstrations never matters.
    """

    weights: str = setting("resampler", choices=("resampler",))
    rank: int = setting(0, least=0, most=1024)
    latents: int = setting(16, least=1, most=256)
    k: int = setting(8, least=1, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False

    one_set: ClassVar[bool] = True
    grids: ClassVar[Mapping[str, Mapping[str, str]]] = {"resampler": {"lr": "1e-3/3e-3", "steps": "1/3"}}

    @property
    def training(self) -> Training:
        """How the module is trained."""
        return Resampling(**{name: getattr(self, name) for name in setting_names(Resampling)})

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        drawn = [draw(seen, self.k, target=self.target, evenly=self.balanced, rng=rng) for _ in range(self.batch)]
        # Of the demonstrations no answer is a token of its own any more; a layout that has them in one message says so
        return [Lesson(others, target, "answers") for target, others in drawn]
