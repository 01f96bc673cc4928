"""What stands before a question, as one vector that is added to the question's first token through a gate.

The vector of a segment is the mean of its tokens' embeddings, brought to length; a map of low rank and a gate for each
role stand between it and the token it is added to:

    e + size * sum over roles of tanh(gate) * up(down(mean of the role's tokens))

Gates are 0 at first, so at first the network is as it was, to the bit.

Source: the coarse nodes of Context-Alignment, Hu et al. (2025), https://arxiv.org/abs/2501.03747; gates as in Alayrac
et al. (2022), Flamingo, section 3.2, https://arxiv.org/abs/2204.14198.
Differs: an analogue for text, as theirs aligns series with texts: edges from what a question depends on to its first
token alone, at the input alone, without a graph network.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from kshot.models.hf import Backbone
from kshot.models.made_tokens import Made, MadeTokens, drawn_, size_of_words

ROLES = ("context", "demonstrations", "instruction")
Segments = tuple[tuple[int, ...], ...]
"""The tokens of each role, none where it is not there; in the order of `ROLES`."""


class SegmentMap(nn.Module):
    """Gates and the map.

    Args:
        width: Of the network's embeddings.
        rank: Of the map.
    """

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(len(ROLES)))
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return what is added, `[n, width]`, for means of segments `[n, roles, width]`, 0 where there is none."""
        mapped = self.up(self.down(normalize(pooled, dim=-1) * pooled.shape[-1] ** 0.5))
        return (torch.tanh(self.gates)[:, None] * mapped).sum(-2)


class PooledTokens(MadeTokens):
    """First tokens of questions, with what stands before them.

    Args:
        backbone: The network, which stays as it is.
        rank: Of the map.
        seed: For the map's first weights.
    """

    kind = "segment-map"

    def __init__(self, backbone: Backbone, rank: int, *, seed: int):
        width = backbone.embed(torch.zeros(1, dtype=torch.int64, device=backbone.device)).shape[1]
        self._size = size_of_words(backbone)
        module = SegmentMap(width, rank)
        drawn_(module, seed)
        super().__init__(backbone, module)

    @property
    def is_open(self) -> bool:
        """Whether any gate is not 0."""
        return bool(self.module.gates.any())  # type: ignore - a `SegmentMap`

    def make(self, wanted: Sequence[Made]) -> torch.Tensor:
        """Return the tokens' vectors with what is added to them."""
        pooled = torch.stack([torch.stack([self._mean(ids) for ids in one.content[1]]) for one in wanted])
        return self.embed([one.content[0] for one in wanted]) + self._size * self.module(pooled)

    def _mean(self, ids: tuple[int, ...]) -> torch.Tensor:
        vectors = self.embed(ids)  # [n, width]
        return vectors.sum(0) / max(1, len(ids))
