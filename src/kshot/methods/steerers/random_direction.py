"""The control of steering: what another steerer found, with each vector replaced by a random one of its norm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.steering import Steering
from kshot.core.types import Example, Task
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.icv import Icv
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class RandomDirection(Steerer):
    """Steer as another steerer does, with as much strength at the same places, in random directions.

    Attributes:
        of: The steerer whose control it is.

    Source: control of our own.
    """

    of: Steerer = Icv()

    @property
    def least(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - that of another
        """The fewest examples that the other one needs."""
        return self.of.least

    def missing_field(self, task: Task) -> str | None:
        """Return what the other one's examples must have and none has."""
        return self.of.missing_field(task)

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`."""
        return randomised(self.of.fit(examples, model=model, rng=rng), rng)


def randomised(steering: Steering, rng: np.random.Generator) -> Steering:
    """Return a steering whose vectors have random directions and the norms they had."""
    edits = []
    for edit in steering.edits:
        drawn = rng.standard_normal(edit.vectors.shape)
        norms = np.linalg.norm(edit.vectors, axis=-1, keepdims=True) / np.linalg.norm(drawn, axis=-1, keepdims=True)
        edits.append(replace(edit, vectors=(drawn * norms).astype(np.float32)))
    return replace(steering, edits=tuple(edits), about={**steering.about, "control": "random-direction"})
