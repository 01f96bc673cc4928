"""The control of steering: what another steerer found, with each vector replaced by a random one of its norm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.methods import Steerer, Subject
from kshot.core.plugins import find
from kshot.core.steering import Steering
from kshot.core.types import Example
from kshot.methods.steerers import STEERERS


@dataclass(frozen=True)
class RandomDirection:
    """Steer as another steerer does, with as much strength at the same places, in random directions.

    Attributes:
        of: The steerer whose control it is, with its default settings.

    Source: control of our own.
    """

    of: str = "icv"

    def __post_init__(self):
        self._other  # noqa: B018 - is there one of this name?

    @property
    def _other(self) -> Steerer:
        return find(self.of, STEERERS, group="kshot.steerers", what="steerer")()

    @property
    def least(self) -> int:
        """The fewest examples that the other one needs."""
        return self._other.least

    def fit(self, examples: Sequence[Example], *, subject: Subject, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.core.methods.Steerer`."""
        return randomised(self._other.fit(examples, subject=subject, rng=rng), rng)


def randomised(steering: Steering, rng: np.random.Generator) -> Steering:
    """Return a steering whose vectors have random directions and the norms they had."""
    edits = []
    for edit in steering.edits:
        drawn = rng.standard_normal(edit.vectors.shape)
        norms = np.linalg.norm(edit.vectors, axis=-1, keepdims=True) / np.linalg.norm(drawn, axis=-1, keepdims=True)
        edits.append(replace(edit, vectors=(drawn * norms).astype(np.float32)))
    return replace(steering, edits=tuple(edits), about={**steering.about, "control": "random-direction"})
