"""A steerer: what is changed in the activations."""

from dataclasses import dataclass

import numpy as np

import kshot
from kshot.core.steering import Edit


@dataclass(frozen=True)
class MeanOutput(kshot.Steerer):
    """Add the mean activation at the end of the outputs to the last layer's residual stream.

    Attributes:
        scale: What it is multiplied by.
    """

    scale: float = 0.01

    def fit(self, examples, *, model, rng):
        """Return the steering."""
        found = model.texts_at_end([e.output for e in examples], "block").mean(axis=0)  # [n_layers, width]
        layer = len(found) - 1
        edit = Edit(layer, "block", "add", True, found[layer][None], np.array([self.scale], dtype=np.float32))
        return kshot.Steering((edit,), model.unsteered, {"steerer": "mean-output"})
