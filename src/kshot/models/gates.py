"""One gate for each attention head: how much of its output at the end of a prompt is replaced by a given vector.

Source: Park et al. (2025), Soft Injection, https://arxiv.org/abs/2507.20906, section 3.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kshot.core.steering import Edit, Steering
from kshot.models.hf import Backbone
from kshot.models.hooks import Change, at_marked, changing, mixed, shape_of


class Gates:
    """The gates, as sigmoids of what is trained; at first each is a half.

    Args:
        backbone: Whose heads they stand at.
        vectors: What is mixed in, `[n_layers, n_heads, head_dim]`.

    Raises:
        ModelError: The architecture's heads cannot be reached.
    """

    soft = None  # no vectors stand before a text, as in `kshot.models.prefix`

    def __init__(self, backbone: Backbone, vectors: NDArray[np.float32]):
        shape = shape_of(backbone)
        assert vectors.shape == (shape.n_layers, shape.n_heads, shape.head_dim)
        self._backbone = backbone
        self._vectors = vectors
        self.logits = nn.Parameter(torch.zeros(vectors.shape[:2], device=backbone.device))
        self.parameters = {"gates": self.logits}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone compute with the gates, at the tokens that have the mark 1."""
        vectors = torch.from_numpy(self._vectors).to(self._backbone.device)

        def gated(layer: int) -> Change:
            return lambda x: mixed(x, vectors[layer], torch.sigmoid(self.logits[layer]))

        changes = {
            (layer, "heads"): [at_marked(self._backbone, gated(layer), 1)] for layer in range(len(self._vectors))
        }
        with changing(self._backbone, changes):
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is trained by name, detached, not copied."""
        return {"gates": self.logits.detach()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over gates of the same shape."""
        with torch.no_grad():
            self.logits.copy_(tensors["gates"])

    def steering(self, model: str) -> Steering:
        """Return what the gates do now, for the model with a fingerprint."""
        weights = torch.sigmoid(self.logits.detach()).cpu().numpy()
        edits = [
            Edit(layer, "heads", "mix", True, vectors, own)
            for layer, (vectors, own) in enumerate(zip(self._vectors, weights, strict=True))
        ]
        return Steering(tuple(edits), model)
