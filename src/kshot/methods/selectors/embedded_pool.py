"""What selectors have in common that look at the pool's inputs as vectors alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.fields import state
from kshot.core.types import Example
from kshot.encoders.encoder import load_encoder
from kshot.methods.contracts import Selector
from kshot.methods.embeds import Embeds
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class EmbeddedPool(Embeds, Selector):
    """A selector for the whole task that embeds the pool."""

    _embeddings: NDArray[np.float64] | None = state()

    per_query = False

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Embed the pool's inputs with their contexts, [n_pool, dim]."""
        embeddings = load_encoder(self.encoder).embed([e.text for e in pool])
        return replace(self, _embeddings=embeddings.astype(np.float64))
