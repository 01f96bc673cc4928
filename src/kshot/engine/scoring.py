"""Log-probabilities of continuations: packed after shared prefixes, or in plain batches where packing is impossible.

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

from kshot.core.types import FloatArray
from kshot.engine.attention import TreeAttention
from kshot.engine.remembered import Beginning
from kshot.engine.trie import Tree, build_tree, cut
from kshot.models.hf import Backbone


def score_packed(
    backbone: Backbone, tree: Tree, packs: Sequence[tuple[int, int]], begun: Beginning | None = None
) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
    """Run packs in order; the path to each one's first token must stand in packs before it.

    Args:
        backbone: The network.
        tree: The tree.
        packs: Those of `cut` that must be run, as `packs_for` says.
        begun: What stands before the tree.

    Yields:
        After each pack the slots scored in it and their log-probabilities in nats; a slot with several targets comes
        several times, and its parts add up.
    """
    attend = TreeAttention(tree, backbone, begun)
    for i, (start, stop) in enumerate(packs):
        inside = slice(*np.searchsorted(tree.positions, [start, stop]))
        keep, rows = np.unique(tree.positions[inside] - start, return_inverse=True)
        logits = run_pack(backbone, tree, attend, start, stop, keep)
        if i + 1 < len(packs):
            attend.close(packs[i + 1][0])
        yield tree.slots[inside], _pick(logits, rows, tree.targets[inside])


def begin(backbone: Backbone, ids: tuple[int, ...], *, max_tokens: int) -> Beginning:
    """Run tokens that prompts begin with, at most so many at once, and return what is kept of them."""
    tree, nowhere = build_tree([ids], [[(0,)]]), np.zeros(0, dtype=np.int64)
    attend = TreeAttention(tree, backbone)
    for start, stop in cut(tree, max_tokens=max_tokens, max_scored=1):
        run_pack(backbone, tree, attend, start, stop, nowhere)
    return Beginning(len(ids), attend.kept, tuple(tree.flags.tolist()))


def score_joined(
    backbone: Backbone, tree: Tree, begun: Sequence[tuple[NDArray[np.int64], Beginning]]
) -> tuple[NDArray[np.int64], FloatArray]:
    """Run all of a tree that is not kept in one pass, after several beginnings.

    Args:
        backbone: The network.
        tree: The tree, with the beginnings.
        begun: What is kept of them, each with the places of its tokens in the tree; nothing is predicted inside.

    Returns:
        As `score_packed` yields.
    """
    attend, is_new = TreeAttention(tree, backbone), np.ones(len(tree.tokens), dtype=bool)
    attend.recall(begun)
    for path, _ in begun:
        is_new[path] = False
    at = np.flatnonzero(is_new)
    keep, rows = np.unique(np.searchsorted(at, tree.positions), return_inverse=True)
    return tree.slots, _pick(_run(backbone, tree, attend, at, keep), rows, tree.targets)


def run_pack(
    backbone: Backbone, tree: Tree, attend: TreeAttention, start: int, stop: int, keep: NDArray[np.int64]
) -> torch.Tensor:
    """Run the pack `start:stop` and return logits `[len(keep), vocab]` at the pack's positions `keep`."""
    return _run(backbone, tree, attend, np.arange(start, stop), keep)


def _run(
    backbone: Backbone, tree: Tree, attend: TreeAttention, at: NDArray[np.int64], keep: NDArray[np.int64]
) -> torch.Tensor:
    def tensor(values: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.array(values)).to(backbone.device)

    attend.open(tensor(at))
    marks = tree.marks[at]
    places = {mark: placed(backbone, np.flatnonzero(marks == mark)) for mark in np.unique(marks[marks > 0]).tolist()}
    return backbone.packed_logits(tensor(tree.tokens[at]), tensor(tree.depths[at]), attend, tensor(keep), places)


def placed(
    backbone: Backbone, at: Sequence[int] | NDArray[np.int64], rows: Sequence[int] = (0,)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices into a row, or one index into each of several rows, as `Places` has them."""
    both = np.broadcast_arrays(np.array(rows, dtype=np.int64), np.array(at, dtype=np.int64))
    row, index = (torch.from_numpy(values.copy()).to(backbone.device) for values in both)
    return row, index


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
    places = {1: placed(backbone, [len(prompt) - 1], range(len(rows)))}
    result = []
    for logits, ids in zip(backbone.plain_logits(rows, places), continuations, strict=True):
        last = np.arange(len(prompt) - 1, len(prompt) - 1 + len(ids))
        result.append(_pick(logits, last, np.array(ids)).sum())
    return np.array(result)
