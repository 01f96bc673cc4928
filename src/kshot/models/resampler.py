"""A small module that reads demonstrations and says them in a fixed number of vectors.

Two layers of cross-attention over a network's own embeddings of words. In the first, `latents` learnt vectors read each
demonstration by itself, so that an answer stays with its question; in the second, their means over the demonstrations
read all that was found. So the order of the demonstrations does not matter. Each vector is as large as the embedding of
a word at first.

Source: the module of M2IXT, Chen et al. (2023), Lightweight In-Context Tuning for Multimodal Unified Models,
https://arxiv.org/abs/2310.05109; cross-attention of learnt latents as in Alayrac et al. (2022), Flamingo, section 3.1,
https://arxiv.org/abs/2204.14198.
Differs: an analogue for text, as theirs reads images and texts; no code was found, and sizes are ours.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import gelu, normalize

from kshot.core.errors import UserError
from kshot.models.hf import Backbone
from kshot.models.made_tokens import Made, MadeTokens, drawn_, size_of_words

MOST_SHARE = 0.05  # of the network's parameters
_WIDTHS = tuple(2**i for i in range(7, 1, -1))
_HEAD = 8

Demonstration = tuple[tuple[int, bool], ...]
"""Tokens, each with whether it is part of the answer."""


class Resampler(nn.Module):
    """The module.

    Args:
        width: Of the network's embeddings.
        inner: Of the module itself.
        latents: How many vectors it says.
        size: Root mean square of the network's embeddings.
    """

    def __init__(self, width: int, inner: int, latents: int, size: float):
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(latents, inner))
        self.answer = nn.Parameter(torch.zeros(1, inner))
        self.size = nn.Parameter(torch.full((1,), size))
        self.into, self.out = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        self.layers = nn.ModuleList([_Layer(inner), _Layer(inner)])

    def forward(
        self, words: torch.Tensor, is_answer: torch.Tensor, is_word: torch.Tensor, sizes: Sequence[int]
    ) -> torch.Tensor:
        """Return what sets of demonstrations come to.

        Args:
            words: Embeddings `[n_demonstrations, n_words, width]`.
            is_answer: Which belong to an answer `[n_demonstrations, n_words]`.
            is_word: Which are there, as demonstrations are of different lengths; likewise.
            sizes: How many demonstrations each set has.

        Returns:
            `[n_sets, latents, width]`.
        """
        inner = self.latents.shape[1]
        read = self.into(_even(words)) + is_answer[..., None] * self.answer + _positions(words.shape[1], inner, words)
        found = self.layers[0](self.latents.expand(len(words), -1, -1), read, is_word)  # [n, latents, inner]
        of_sets = found.split(list(sizes))
        most, n_latents = max(sizes), found.shape[1]
        said = torch.stack([own.mean(0) for own in of_sets])
        everything = torch.stack([torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]) for own in of_sets])
        there = torch.arange(most, device=words.device) < torch.tensor(list(sizes), device=words.device)[:, None]
        said = self.layers[1](said, everything.flatten(1, 2), there.repeat_interleave(n_latents, dim=1))
        return self.size * _even(self.out(_even(said)))


class _Layer(nn.Module):
    """Cross-attention, then a network with one hidden layer, each beside what it adds to."""

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value, self.back = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self._n_heads = next(n for n in range(max(1, width // _HEAD), 0, -1) if width % n == 0)

    def forward(self, x: torch.Tensor, read: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
        """Return x `[n, m, width]` after it has read `[n, l, width]`, where `is_there` `[n, l]`."""
        query, key, value = self.query(_even(x)), self.key(_even(read)), self.value(_even(read))
        query, key, value = (t.unflatten(-1, (self._n_heads, -1)).transpose(1, 2) for t in (query, key, value))
        scores = query @ key.mT / query.shape[-1] ** 0.5  # [n, heads, m, l]
        weights = scores.masked_fill(~is_there[:, None, None], -torch.inf).softmax(-1)
        x = x + self.back((weights @ value).transpose(1, 2).flatten(-2))
        return x + self.narrow(gelu(self.wide(_even(x))))


class ContextVectors(MadeTokens):
    """The vectors that a resampler makes of demonstrations, as tokens.

    Args:
        backbone: The network, which stays as it is.
        width: Of the resampler; 0 is the largest of 128, 64, … 4 with which it is small enough.
        latents: Vectors for a set of demonstrations.
        seed: For the first weights.

    Raises:
        UserError: It has 5 % of the network's parameters or more.
    """

    kind = "resampler"

    def __init__(self, backbone: Backbone, width: int, latents: int, *, seed: int):
        outer = backbone.embed(torch.zeros(1, dtype=torch.int64, device=backbone.device)).shape[1]
        self.n_host = sum(p.numel() for p in backbone.model.parameters())
        self.n_latents = latents

        def n_of(inner: int) -> int:
            with torch.device("meta"):
                return sum(p.numel() for p in Resampler(outer, inner, latents, 1.0).parameters())

        tried = (width,) if width else _WIDTHS
        fits = [inner for inner in tried if n_of(inner) < MOST_SHARE * self.n_host]
        if not fits:
            raise UserError(
                f"What reads demonstrations must have less than {MOST_SHARE:.0%} of the model's parameters; "
                f"'{backbone.name}' has {self.n_host:,}, and with rank={tried[-1]} and latents={latents} it has "
                f"{n_of(tried[-1]):,}. Use fewer latents or a smaller rank, or leave rank out."
            )
        module = Resampler(outer, fits[0], latents, size_of_words(backbone))
        drawn_(module, seed)
        super().__init__(backbone, module)
        self.n_parameters = n_of(fits[0])

    @property
    def share(self) -> float:
        """Its parameters as a share of the network's: what a token costs that it alone reads."""
        return self.n_parameters / self.n_host

    def make(self, wanted: Sequence[Made]) -> torch.Tensor:
        """Return the vectors, each set of demonstrations read once."""
        sets: dict[tuple[Demonstration, ...], int] = {}
        places = [(sets.setdefault(one.content, len(sets)), one.number) for one in wanted]
        demonstrations = [one for some in sets for one in some]
        longest, device = max(map(len, demonstrations)), self.backbone.device
        padded = [[*one, *[(0, False)] * (longest - len(one))] for one in demonstrations]
        words = self.embed([i for one in padded for i, _ in one]).unflatten(0, (len(padded), longest))
        is_answer = torch.tensor([[flag for _, flag in one] for one in padded], device=device)
        lengths = torch.tensor([len(one) for one in demonstrations], device=device)
        is_word = torch.arange(longest, device=device) < lengths[:, None]
        said = self.module(words, is_answer, is_word, [len(some) for some in sets])
        at = torch.tensor(places, device=device)
        return said[at[:, 0], at[:, 1]]


def _even(x: torch.Tensor) -> torch.Tensor:
    """Return vectors with a root mean square of 1."""
    return normalize(x, dim=-1) * x.shape[-1] ** 0.5


def _positions(n: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Return sines and cosines of places in a demonstration, `[n, width]`."""
    rates = 10_000 ** (-torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(n, device=like.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
