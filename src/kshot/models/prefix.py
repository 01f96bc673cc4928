"""Trained vectors before a text: a soft prompt, with the network as it is.

Source: Lester et al. (2021), https://arxiv.org/abs/2104.08691; as a latent concept of a task: Wang et al. (2023),
https://arxiv.org/abs/2301.11916.
Differs: after the token that begins a text, where there is one, as the network knows nothing else in its place.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from kshot.models.hf import Backbone

_NORMAL_STD = 0.02  # transformers' first weights of new embeddings


class Prefix:
    """The vectors.

    Args:
        backbone: Before whose texts they stand.
        n_tokens: How many.
        first: "embeddings" draws them as large as the embeddings of tokens are; "normal" with a standard deviation of
            0.02, as new embeddings are in transformers.
        seed: For the draw.
    """

    def __init__(self, backbone: Backbone, n_tokens: int, *, first: str, seed: int):
        width = backbone.embed(torch.zeros(1, dtype=torch.int64, device=backbone.device)).shape[1]
        size = _NORMAL_STD
        if first == "embeddings":
            some = torch.arange(0, backbone.vocab_size, max(1, backbone.vocab_size // 4096), device=backbone.device)
            size = float(backbone.embed(some).float().square().mean().sqrt())
        drawn = torch.randn(n_tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * size
        self.soft = nn.Parameter(drawn.to(backbone.device))  # [n_tokens, width], float32
        self.parameters = {"prefix": self.soft}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Do nothing: the vectors go in with the text."""
        yield

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the vectors by name, detached, not copied."""
        return {"prefix": self.soft.detach()}

    def load_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over vectors of the same number and width."""
        with torch.no_grad():
            self.soft.copy_(tensors["prefix"])
