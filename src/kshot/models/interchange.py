"""A direction of the residual stream, trained so that what it carries in one prompt can stand in for it in another.

Where x is the activation after a layer at the last token of a prompt, and s that of another prompt, the network goes
on with x + (u . (s - x)) u: along the unit vector u it is the other prompt's, in all else its own.

Source: Minder et al. (2024), section 5, https://arxiv.org/abs/2411.07404; as distributed interchange: Geiger et al.
(2023), https://arxiv.org/abs/2303.02536.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

from kshot.core.steering import Edit, Steering
from kshot.models.hf import Backbone
from kshot.models.hooks import Change, at_marked, changing


class Interchange:
    """The direction; u is what is trained divided by its length.

    Args:
        backbone: Whose activations they are.
        layer: After which layer, from 0.
        direction: Where training begins, `[width]`.
    """

    soft = None  # no vectors stand before a text, as in `kshot.models.prefix`

    def __init__(self, backbone: Backbone, layer: int, direction: NDArray[np.float32]):
        self._backbone, self._layer = backbone, layer
        self.direction = nn.Parameter(torch.from_numpy(direction.copy()).to(backbone.device))
        self.parameters = {"direction": self.direction}
        self._sources = torch.zeros(0, len(direction), device=backbone.device)

    def take(self, sources: NDArray[np.float32]) -> None:
        """Let the activation i, from 0, of `[n, width]` be what tokens with the mark i + 1 are given."""
        self._sources = torch.from_numpy(sources).to(self._backbone.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the backbone compute with the direction's components of the sources, at the tokens with their marks."""

        def given(source: torch.Tensor) -> Change:
            def change(x: torch.Tensor) -> torch.Tensor:
                u, own = normalize(self.direction, dim=0), x.float()
                return (own + ((source - own) @ u)[..., None] * u).to(x.dtype)

            return change

        changes = [at_marked(self._backbone, given(source), i) for i, source in enumerate(self._sources, start=1)]
        with changing(self._backbone, {(self._layer, "block"): changes}):
            yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is trained by name, detached, not copied."""
        return {"direction": self.direction.detach()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over a direction of the same width."""
        with torch.no_grad():
            self.direction.copy_(tensors["direction"])

    def steering(self, model: str) -> Steering:
        """Return what sets the component along the direction, as it is now, to 1; for the model with a fingerprint."""
        u = normalize(self.direction.detach(), dim=0).cpu().numpy()
        return Steering((Edit(self._layer, "block", "set", True, u[None], np.ones(1, dtype=np.float32)),), model)
