"""From score requests to a tree of shared prefixes, laid out as one row, and cut into packs.

The tree is written in preorder: a token's subtree is a contiguous range after it, so "a is an ancestor of u" is
`a <= u < end[a]`, and any contiguous range of the row can be run as one pack. What a pack needs from before is exactly
the path from the root to its first token: preorder leaves no other open branch. Small children come first, so a long
trunk (the stream of `all-past`) sheds its side branches while the path is still short.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
_WIDTH = 8  # bytes of a token in a node's label: its id, above that its mark, and above that its flags
# Where they begin: tokens that are made have ids above those of words (`kshot.models.made_tokens`), and two flags leave
# the sign alone
_MARK_BITS, _FLAG_BITS = 48, 61


@dataclass(eq=False, slots=True)
class _Node:
    label: bytes = b""
    parent: "_Node | None" = None
    children: dict[bytes, "_Node"] = field(default_factory=dict)
    targets: list[tuple[int, int]] = field(default_factory=list)  # (token to predict after the node's end, slot)
    n_tokens: int = 0  # of the whole subtree
    n_scored: int = 0  # positions of the subtree that need logits
    depth: int = 0  # of the first token


@dataclass(frozen=True)
class Tree:
    """A tree of token sequences in preorder.

    Attributes:
        tokens: Token ids `[n]`.
        marks: Of tokens that end a prompt, where prompts are marked; 0 elsewhere `[n]`.
        flags: Those that tokens were given (`flagged`); 0 elsewhere `[n]`.
        depths: Number of ancestors, which is the token's position in its sequence `[n]`.
        ends: First index after the token's subtree `[n]`.
        positions: Index into `tokens` after which something is predicted `[t]`, ascending.
        targets: Token id predicted there `[t]`.
        slots: Which (request, continuation), counted through, the target belongs to `[t]`.
        starts: First index of each node (a run of tokens without a branch) `[nodes]`.
        sizes: Tokens in each node's subtree `[nodes]`.
        scored: Positions with logits in each node's subtree `[nodes]`.
    """

    tokens: IntArray
    marks: IntArray
    flags: IntArray
    depths: IntArray
    ends: IntArray
    positions: IntArray
    targets: IntArray
    slots: IntArray
    starts: IntArray
    sizes: IntArray
    scored: IntArray


def flagged(token: int, flags: int) -> int:
    """Return a token with up to two flags, bits of `flags`: another one than the same token with others."""
    return token | flags << _FLAG_BITS


def build_tree(
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    marks: Sequence[int] | None = None,
) -> Tree:
    """Merge prompts with their continuations into one tree.

    The last token of a continuation is predicted but not run. Slots count continuations through in order.
    A token with a mark is another one than the same token without, so what is done to it stays in its own branch.

    Args:
        prompts: Token ids of each request's prompt, at least one token each; they may be `flagged`.
        continuations: For each request its continuations' token ids, at least one token each.
        marks: For each request the mark of its prompt's last token, 1 or more.
    """
    root = _Node()
    slot = 0
    for i, (prompt, alternatives) in enumerate(zip(prompts, continuations, strict=True)):
        ids = np.array(prompt, dtype=np.uint64)
        ids[-1] += (marks[i] if marks else 0) << _MARK_BITS
        end = _insert(root, ids.tobytes())
        for ids in alternatives:
            node = end
            for position, token in enumerate(ids):
                node.targets.append((token, slot))
                if position + 1 < len(ids):
                    node = _insert(node, np.uint64(token).tobytes())
            slot += 1
    return _lay_out(root)


def _insert(node: _Node, rest: bytes) -> _Node:
    """Walk down from the end of `node` along `rest`, adding and splitting nodes; return the node that ends there."""
    while rest:
        child = node.children.get(rest[:_WIDTH])
        if child is None:
            child = node.children[rest[:_WIDTH]] = _Node(rest, node)
            return child
        if not rest.startswith(child.label):
            _split(child, _common(child.label, rest))
            child = node.children[rest[:_WIDTH]]
        node, rest = child, rest[len(child.label) :]
    return node


def _common(a: bytes, b: bytes) -> int:
    """Return the length in bytes of the common prefix, in whole tokens."""
    n = min(len(a), len(b)) // _WIDTH
    x, y = (np.frombuffer(s, dtype=np.uint64, count=n) for s in (a, b))
    differ = np.flatnonzero(x != y)
    return int(differ[0] if len(differ) else n) * _WIDTH


def _split(node: _Node, at: int) -> None:
    """Put a new node above `node` that takes the first `at` bytes; `node` itself keeps its end and its targets."""
    assert node.parent is not None
    upper = _Node(node.label[:at], node.parent)
    node.parent.children[node.label[:_WIDTH]] = upper
    node.label, node.parent = node.label[at:], upper
    upper.children[node.label[:_WIDTH]] = node


def _preorder(root: _Node) -> list[_Node]:
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(node.children.values()))
    return order


def _lay_out(root: _Node) -> Tree:
    for node in reversed(_preorder(root)):
        if len(node.children) > 1:
            kids = sorted(node.children.values(), key=lambda k: (k.n_tokens, k.label[:_WIDTH]))
            node.children = {k.label[:_WIDTH]: k for k in kids}
        node.n_tokens += len(node.label) // _WIDTH
        node.n_scored += bool(node.targets)
        if node.parent is not None:
            node.parent.n_tokens += node.n_tokens
            node.parent.n_scored += node.n_scored
    nodes = [n for n in _preorder(root) if n.label]
    begin, marks = 0, list[tuple[int, int, int]]()
    for node in nodes:
        assert node.parent is not None
        node.depth = node.parent.depth + len(node.parent.label) // _WIDTH
        begin += len(node.label) // _WIDTH
        marks += [(begin - 1, *target) for target in node.targets]
    lengths = np.array([len(n.label) // _WIDTH for n in nodes], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    bases = np.array([n.depth for n in nodes], dtype=np.int64)
    sizes = np.array([n.n_tokens for n in nodes], dtype=np.int64)
    offsets = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    positions, targets, slots = np.array(marks, dtype=np.int64).reshape(-1, 3).T
    marked = np.frombuffer(b"".join(n.label for n in nodes), dtype=np.int64)
    return Tree(
        tokens=marked & (2**_MARK_BITS - 1),
        marks=(marked >> _MARK_BITS) & (2 ** (_FLAG_BITS - _MARK_BITS) - 1),
        flags=marked >> _FLAG_BITS,
        depths=np.repeat(bases, lengths) + offsets,
        ends=np.repeat(starts + sizes, lengths),
        positions=positions,
        targets=targets,
        slots=slots,
        starts=starts,
        sizes=sizes,
        scored=np.array([n.n_scored for n in nodes], dtype=np.int64),
    )


def cut(tree: Tree, *, max_tokens: int, max_scored: int) -> list[tuple[int, int]]:
    """Cut the row into packs (start, stop) that depend on the tree alone.

    A branch that fits into a pack as a whole is never cut; a longer one fills packs to the limit.

    Args:
        tree: The tree.
        max_tokens: Most tokens in a pack.
        max_scored: Most positions with logits in a pack; one branching point with its run is never divided for it.
    """
    packs: list[tuple[int, int]] = []
    start, scored = 0, 0
    stops = [*tree.starts[1:].tolist(), len(tree.tokens)]
    ends = np.unique(tree.positions)
    for first, stop, size, n_scored in zip(
        tree.starts.tolist(), stops, tree.sizes.tolist(), tree.scored.tolist(), strict=True
    ):
        whole = size <= max_tokens and n_scored <= max_scored
        crowded = first - start + size > max_tokens or scored + n_scored > max_scored
        if first > start and ((whole and crowded) or scored >= max_scored):
            packs.append((start, first))
            start, scored = first, 0
        while stop - start > max_tokens:
            packs.append((start, start + max_tokens))
            start, scored = start + max_tokens, 0
        at = np.searchsorted(ends, stop - 1)
        scored += int(at < len(ends) and ends[at] == stop - 1)
    if start < len(tree.tokens):
        packs.append((start, len(tree.tokens)))
    return packs


def path_of(tree: Tree, ids: Sequence[int]) -> IntArray:
    """Return where in the tree the tokens stand with which sequences in it begin, `[len(ids)]`."""
    tokens = (tree.tokens | tree.flags << _FLAG_BITS).tolist()
    marks, ends = tree.marks.tolist(), tree.ends.tolist()
    found, at = list[int](), 0
    for token in ids:
        while tokens[at] != token or marks[at]:
            at = ends[at]  # the next branch
        found.append(at)
        at += 1
    return np.array(found, dtype=np.int64)


def packs_for(tree: Tree, packs: Sequence[tuple[int, int]], slots: IntArray) -> list[int]:
    """Return the numbers of the packs that must be run, each whole, so that `slots` can be scored."""
    needed = np.zeros(len(tree.tokens), dtype=bool)
    needed[tree.positions[np.isin(tree.slots, slots)]] = True
    numbers = []
    for number in range(len(packs) - 1, -1, -1):
        start, stop = packs[number]
        if needed[start:stop].any():
            # What the pack needs from before is the path to its first token
            needed[:start] |= tree.ends[:start] > start
            numbers.append(number)
    return numbers[::-1]
