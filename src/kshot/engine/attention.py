"""Attention of packed rows: every token sees its own ancestors in the tree, whatever else stands in memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from kshot.engine.remembered import Beginning
from kshot.engine.trie import IntArray, Tree
from kshot.models.hf import Backbone

_BEGUN = -2  # in place of an index into the tree: a token before all of it


class TreeAttention:
    """Keys and values of rows of a tree, and who sees whom. Called by the backbone once per layer.

    Args:
        tree: The tree that the packs come from.
        backbone: The network; its `log_weights` are added to the scores of tokens with flags.
        begun: What stands before the tree and was run before, so that the tree's depths begin after it.

    Attributes:
        kept: Of each layer, keys and values `[kv_heads, room, dim]`.
    """

    def __init__(self, tree: Tree, backbone: Backbone, begun: Beginning | None = None):
        device = backbone.device
        self._weights = backbone.log_weights
        self._tree_flags = torch.from_numpy(tree.flags).to(device)
        self._tree_depths = torch.from_numpy(tree.depths).to(device)
        self._ends = torch.from_numpy(tree.ends).to(device)
        self._device = device
        # The remembered rows: index into the tree (-1 for a token that was generated), and position in its sequence
        begun = begun or Beginning(0)
        self._rows = torch.full((begun.n,), _BEGUN, dtype=torch.int64, device=device)
        self._depths = torch.arange(begun.n, device=device)
        self._flags = torch.tensor(begun.flags or (0,) * begun.n, dtype=torch.int64, device=device)
        self.kept = dict(begun.kept)  # what outgrows its room is put here, and not into the beginning
        self._masks: dict[tuple[int | None, int], tuple[int, torch.Tensor]] = {}
        self._n_new = 0

    @torch.inference_mode()
    def recall(self, begun: Sequence[tuple[IntArray, Beginning]]) -> None:
        """Take over what is kept of beginnings that stand in the tree, each token once.

        Args:
            begun: Beginnings, each with the places of its tokens in the tree.
        """
        rows, kept, known = list[IntArray](), list[tuple[Beginning, torch.Tensor]](), np.zeros(len(self._ends), bool)
        for path, beginning in begun:
            new = np.flatnonzero(~known[path])
            known[path] = True
            rows.append(path[new])
            kept.append((beginning, torch.from_numpy(new).to(self._device)))
        self._rows = torch.from_numpy(np.concatenate(rows)).to(self._device)
        self._depths, self._flags = self._tree_depths[self._rows], self._tree_flags[self._rows]
        for layer in kept[0][0].kept:
            keys, values = (torch.cat([b.kept[layer][i][:, at] for b, at in kept], dim=1) for i in (0, 1))
            self.kept[layer] = keys, values

    def open(self, pack: torch.Tensor) -> None:
        """Prepare for tokens of the tree, in its order; the path to the first one must be remembered."""
        rows = torch.cat([self._rows, pack])
        self._seen = self.path_to(pack, rows)
        assert int(self._seen[0].sum()) == int(self._tree_depths[pack[0]]) + 1
        self._add(pack, self._tree_depths[pack], self._tree_flags[pack])

    def open_generated(self, seen: torch.Tensor, depths: torch.Tensor) -> None:
        """Prepare for generated tokens.

        Args:
            seen: Who sees which row, those remembered and then the new ones themselves; bool `[n, rows + n]`.
            depths: Position of each in its own sequence `[n]`.
        """
        self._seen = seen
        self._add(torch.full_like(depths, -1), depths, torch.zeros_like(depths))

    def path_to(self, tokens: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return which remembered rows are tokens of the tree on the path to each of `tokens`, bool `[n, rows]`."""
        rows = self._rows if rows is None else rows
        at = tokens[:, None]
        return (rows == _BEGUN) | (rows >= 0) & (rows <= at) & (at < self._ends[rows.clamp(min=0)])

    def _add(self, rows: torch.Tensor, depths: torch.Tensor, flags: torch.Tensor) -> None:
        self._rows, self._depths = torch.cat([self._rows, rows]), torch.cat([self._depths, depths])
        self._flags = torch.cat([self._flags, flags])
        self._n_new, self._masks = len(rows), {}

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
        n, total = self._n_new, len(self._rows)
        keys, values = self._room(layer, key, total)
        keys[:, total - n : total], values[:, total - n : total] = key, value
        groups = query.shape[0] // key.shape[0]
        first, mask = self._mask(window, groups, query)
        # Heads that share keys stand below each other: [heads, n, dim] -> [1, kv_heads, groups * n, dim]
        rows = query.reshape(1, key.shape[0], groups * n, -1)
        seen = slice(first, total)
        parts, order = [], list[int]()
        for heads, added in self._weighed(layer, mask, self._flags[seen], groups, key.shape[0]):
            of = slice(None) if len(heads) == key.shape[0] else heads
            parts.append(
                scaled_dot_product_attention(
                    rows[:, of], keys[None, of, seen], values[None, of, seen], attn_mask=added, scale=scale
                )
            )
            order += heads
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)[:, np.argsort(order).tolist()]
        return out.reshape(query.shape[0], n, -1)

    def _weighed(
        self, layer: int, mask: torch.Tensor, flags: torch.Tensor, groups: int, n_keys: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield which heads, by the keys that they share, have the same mask in a layer, and that mask.

        Args:
            layer: From 0.
            mask: 0 or -inf, `[groups * n, rows]`.
            flags: Of the rows `[rows]`.
            groups: How many heads share keys.
            n_keys: How many heads keys have.
        """
        weights = self._weights.get(layer, {})
        same: dict[tuple[tuple[float, ...], ...], list[int]] = {}
        for head in range(n_keys):
            own = slice(head * groups, (head + 1) * groups)
            same.setdefault(tuple(tuple(by_head[own].tolist()) for by_head in weights.values()), []).append(head)
        for by_flag, heads in same.items():
            added = mask
            for flag, by_group in zip(weights, by_flag, strict=True):
                if any(by_group):
                    outside = ((flags >> flag) & 1).to(mask.dtype)
                    bias = torch.tensor(by_group, dtype=mask.dtype, device=mask.device)[:, None, None] * outside
                    added = (added.unflatten(0, (groups, -1)) + bias).flatten(0, 1)  # [groups, n, rows]
            yield heads, added

    @torch.inference_mode()
    def close(self, next_start: int) -> None:
        """Remember the path to the tree's token `next_start` and forget everything else."""
        is_ancestor = (self._rows >= 0) & (self._ends[self._rows.clamp(min=0)] > next_start)
        keep = torch.nonzero(is_ancestor | (self._rows == _BEGUN)).flatten()
        for keys, values in self.kept.values():
            keys[:, : len(keep)], values[:, : len(keep)] = keys[:, keep], values[:, keep]
        self._rows, self._depths, self._flags = self._rows[keep], self._depths[keep], self._flags[keep]

    def _room(self, layer: int, like: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        held = self.kept.get(layer)
        if held is None or held[0].shape[1] < length:
            shape = (like.shape[0], length + length // 2, like.shape[2])
            fresh = like.new_empty(shape), like.new_empty(shape)
            for new, old in zip(fresh, held or (), strict=False):
                new[:, : old.shape[1]] = old
            self.kept[layer] = held = fresh
        return held

    def _mask(self, window: int | None, groups: int, like: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Return the first row that anyone sees, and 0 or -inf from there `[groups * n, rows]`: once for all layers."""
        if (window, groups) not in self._masks:
            mask = self._seen
            if window is not None:
                mask = mask & (self._depths[-self._n_new :, None] - self._depths < window)
            first = int(mask.any(0).nonzero()[0])
            added = torch.zeros_like(mask[:, first:], dtype=like.dtype).masked_fill_(~mask[:, first:], -torch.inf)
            self._masks[window, groups] = first, added.repeat(groups, 1)
        return self._masks[window, groups]
