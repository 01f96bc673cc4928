"""In-context vectors: every layer is shifted by the direction that leads from the examples' inputs to their outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.held_out import halves, held_out_best
from kshot.taskmodel.taskmodel import TaskModel

STRENGTHS = (0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Icv(Steerer):
    """Shift the MLPs' outputs from input to output, along the mean difference and its first principal component.

    Attributes:
        strength: Lambda, the length of the shift relative to the activation's; 0 chooses among some on halves of the
            examples, each half asked under the direction of the other.
        site: "mlp" shifts the outputs of the MLPs, "block" what the layers leave in the residual stream.
        layer: The one layer that is shifted, from 0; -1 shifts all.

    Source: Liu et al. (2023), In-Context Vectors, section 3, https://arxiv.org/abs/2311.06668, and its code, which adds
    the mean to the component.
    Differs: the last layer's state is read before the final norm; the strength can be chosen.
    """

    multi_label = True

    strength: float = setting(0.0, least=0)
    site: str = setting("mlp", choices=("mlp", "block"))
    layer: int = setting(-1, least=-1, most=10_000)

    least = 2

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`.

        Raises:
            UserError: Fewer than two examples, or a layer that the model has not.
        """
        check_layer(self.layer, model)
        if len(examples) < self.least:
            raise UserError(
                f"icv needs at least {self.least} examples, whose differences have a principal component; got "
                f"{len(examples)}."
            )
        inputs, outputs = (
            model.texts_at_end([f(e) for e in examples], "block") for f in (lambda e: e.text, lambda e: e.output)
        )
        gaps = outputs - inputs  # [n, layers, width]

        def made(found: NDArray[np.float32], strength: float) -> Steering:
            layers = range(len(found)) if self.layer < 0 else [self.layer]
            weights = np.array([strength], dtype=np.float32)
            edits = tuple(Edit(i, self.site, "turn", False, found[i][None], weights) for i in layers)
            return Steering(edits, model.unsteered, {"steerer": "icv", "strength": strength})

        if self.strength:
            return made(direction(gaps), self.strength)
        folds = [
            ([made(found, s) for s in STRENGTHS], [examples[i] for i in asked])
            for known, asked in halves(examples, least=self.least, rng=rng)
            for found in [direction(gaps[known])]  # once for all strengths
        ]
        return made(direction(gaps), STRENGTHS[held_out_best(folds, model)])


def direction(gaps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mean plus first principal component of differences `[n, n_layers, width]`, as `[n_layers, width]`.

    The component has length 1 over all layers. Its sign makes the largest of the examples' scores positive, so opposite
    differences have the opposite direction.
    """
    flat = gaps.reshape(len(gaps), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    left, _, right = np.linalg.svd(flat - mean, full_matrices=False)
    scores = left[:, 0]
    component = right[0] * np.sign(scores[np.argmax(np.abs(scores))])
    return (mean + component).reshape(gaps.shape[1:]).astype(np.float32)


def check_layer(layer: int, model: TaskModel) -> None:
    """Check that a setting `layer` is -1 or one of the model's.

    Raises:
        UserError: It is not.
    """
    n = model.activations.shape.n_layers
    if not -1 <= layer < n:
        raise UserError(f"layer must be in 0..{n - 1}, the model's layers, or -1; got {layer}.")
