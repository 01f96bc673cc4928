"""What stands before a question is added to it as one vector, through gates that are trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting, setting_names
from kshot.core.lessons import Lesson, Pooling, Training
from kshot.core.types import Example
from kshot.methods.contracts import Tuner
from kshot.methods.tuners.drawing import TARGETS, draw


@dataclass(frozen=True)
class Pooled(Tuner):
    """Add the mean of a passage, of the demonstrations and of the instruction to the question after them.

    Each goes through one map of low rank and a gate of its own (`kshot.models.segment_map`) to the question's first
    token; only these are trained. While the gates are 0 the model is as it was, to the bit.

    Attributes:
        weights: "segment-map": the gates and the map.
        rank: Rank of the map.
        k: Demonstrations in a lesson, and before a query.
        steps: Steps of training for each new example.
        batch: Lessons in a step, each with its own demonstrations.
        target: What a lesson asks: "any-seen" is any example so far, "current" the new one.
        balanced: Draw as equal numbers of each output as were seen, instead of each example with the same chance.

    Source: an analogue for text of the coarse nodes of Context-Alignment, Hu et al. (2025),
    https://arxiv.org/abs/2501.03747.
    Differs: theirs aligns series with texts by graph layers at the input and inside; here the nodes are a prompt's
    segments, the edges are those to a question, and the input's embeddings alone are changed.
    """

    weights: str = setting("segment-map", choices=("segment-map",))
    k: int = setting(3, least=0, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(4, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    balanced: bool = False

    grids: ClassVar[Mapping[str, Mapping[str, str]]] = {"segment-map": {"lr": "3e-3/1e-2", "steps": "1/3"}}

    @property
    def training(self) -> Training:
        """How gates and map are trained."""
        return Pooling(**{name: getattr(self, name) for name in setting_names(Pooling)})

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return the lessons of one step; see `kshot.methods.contracts.Tuner`."""
        drawn = [draw(seen, self.k, target=self.target, evenly=self.balanced, rng=rng) for _ in range(self.batch)]
        return [Lesson(others, target, "last") for target, others in drawn]
