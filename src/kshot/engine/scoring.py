"""Log-probabilities of continuations: packed behind shared prefixes, or in plain batches where packing is impossible.

Packed: the tree's row is run pack by pack. Each layer's keys and values of the current root path stay in a buffer;
a pack's queries see the part of the path and of the pack that are their ancestors (and within the layer's window),
so every token is run once, however many requests share it, and logits are computed only where something is predicted.
The result equals a plain forward pass up to rounding.

Source: tree attention as in Miao et al. (2024), SpecInfer, section 4, https://arxiv.org/abs/2305.09781.
Differs: used for scoring; packs are cut in preorder, so that only one path is ever remembered.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from kshot.core.types import FloatArray
from kshot.engine.trie import Tree
from kshot.models.hf import Backbone


class PathAttention:
    """Attention of one pack over the remembered path and itself.

    Args:
        tree: The tree that the packs come from.
        device: Where keys and values are kept.
    """

    def __init__(self, tree: Tree, device: torch.device):
        self._depths = torch.from_numpy(tree.depths).to(device)
        self._ends = torch.from_numpy(tree.ends).to(device)
        self._device = device
        self._path = torch.empty(0, dtype=torch.int64, device=device)  # row indices of the remembered tokens
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # layer -> keys, values [kv_heads, room, dim]
        self._masks: dict[int | None, tuple[int, torch.Tensor]] = {}

    def open(self, start: int, stop: int) -> None:
        """Prepare for the pack `start:stop`; the path to its first token must be remembered."""
        assert len(self._path) == int(self._depths[start])
        self._pack = torch.arange(start, stop, device=self._device)
        self._masks = {}

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Attend; the signature is `kshot.models.hf.Attend`."""
        past, n = len(self._path), len(self._pack)
        keys, values = self._room(layer, key, past + n)
        keys[:, past : past + n], values[:, past : past + n] = key, value
        first, mask = self._mask(window)
        groups = query.shape[0] // key.shape[0]
        # Heads that share keys stand below each other: [heads, n, dim] -> [1, kv_heads, groups * n, dim]
        rows = query.reshape(1, key.shape[0], groups * n, -1)
        seen = slice(first, past + n)
        out = scaled_dot_product_attention(
            rows, keys[None, :, seen], values[None, :, seen], attn_mask=mask.repeat(groups, 1), scale=scale
        )
        return out.reshape(query.shape[0], n, -1)

    @torch.inference_mode()
    def close(self, next_start: int) -> None:
        """Remember the path to the next pack's first token and forget everything else."""
        row = torch.cat([self._path, self._pack])
        keep = torch.nonzero(self._ends[row] > next_start).flatten()
        for keys, values in self._kept.values():
            keys[:, : len(keep)], values[:, : len(keep)] = keys[:, keep], values[:, keep]
        self._path = row[keep]

    def _room(self, layer: int, like: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        held = self._kept.get(layer)
        if held is None or held[0].shape[1] < length:
            shape = (like.shape[0], length + length // 2, like.shape[2])
            fresh = like.new_empty(shape), like.new_empty(shape)
            for new, old in zip(fresh, held or (), strict=False):
                new[:, : old.shape[1]] = old
            self._kept[layer] = held = fresh
        return held

    def _mask(self, window: int | None) -> tuple[int, torch.Tensor]:
        """Return the first key that any query sees, and who sees whom from there: bool [n, keys]."""
        if window not in self._masks:
            row, pack, depths = torch.cat([self._path, self._pack]), self._pack[:, None], self._depths
            first = 0 if window is None else max(0, int(depths[self._pack].min()) - window + 1)
            first = min(first, len(self._path))  # path indices are depths, so the window starts there
            row = row[first:]
            mask = (row <= pack) & (pack < self._ends[row])
            if window is not None:
                mask &= depths[pack] - depths[row] < window
            self._masks[window] = first, mask
        return self._masks[window]


def score_packed(
    backbone: Backbone, tree: Tree, packs: Sequence[tuple[int, int]]
) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
    """Run packs in order; the path to each one's first token must stand in packs before it.

    Args:
        backbone: The network.
        tree: The tree.
        packs: Those of `cut` that must be run, as `packs_for` says.

    Yields:
        After each pack the slots scored in it and their log-probabilities in nats; a slot with several targets comes
        several times, and its parts add up.
    """
    attend = PathAttention(tree, backbone.device)
    for i, (start, stop) in enumerate(packs):
        inside = slice(*np.searchsorted(tree.positions, [start, stop]))
        keep, rows = np.unique(tree.positions[inside] - start, return_inverse=True)
        attend.open(start, stop)
        logits = backbone.packed_logits(
            _tensor(tree.tokens[start:stop], backbone),
            _tensor(tree.depths[start:stop], backbone),
            attend,
            _tensor(keep, backbone),
        )
        if i + 1 < len(packs):
            attend.close(packs[i + 1][0])
        yield tree.slots[inside], _pick(logits, rows, tree.targets[inside])


def _tensor(values: NDArray[np.int64], backbone: Backbone) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).to(backbone.device)


def _pick(logits: torch.Tensor, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> FloatArray:
    """Return log softmax(logits)[rows, targets] in nats as float64 `[len(rows)]`."""
    normaliser = torch.logsumexp(logits, dim=-1)
    row = torch.from_numpy(rows).to(logits.device)
    chosen = logits[row, torch.from_numpy(np.array(targets)).to(logits.device)]
    return (chosen - normaliser[row]).double().cpu().numpy()


def score_plain(backbone: Backbone, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> FloatArray:
    """Score one request as a batch of whole sequences, one per continuation; nothing is shared.

    Returns:
        Log-probabilities in nats `[n_continuations]`.
    """
    rows = [[*prompt, *ids[:-1]] for ids in continuations]
    result = []
    for logits, ids in zip(backbone.plain_logits(rows), continuations, strict=True):
        last = np.arange(len(prompt) - 1, len(prompt) - 1 + len(ids))
        result.append(_pick(logits, last, np.array(ids)).sum())
    return np.array(result)
