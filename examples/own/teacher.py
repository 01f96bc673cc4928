"""A teacher: whom the model learns to answer like."""

from dataclasses import dataclass, replace

import kshot
from kshot.core.objective_settings import Distil
from kshot.methods.knowledge import NOTHING


@dataclass(frozen=True)
class FirstExample(kshot.Teacher):
    """The teacher is the model before training, shown the first example of the stream."""

    objective = Distil()

    def lessons(self, lessons, seen, *, step, rng, knowledge=NOTHING):
        """Return the tuner's lessons, each with the demonstrations that its teacher is shown."""
        return [replace(one, teacher=tuple(e for e in seen[:1] if e != one.target)) for one in lessons]
