"""Beginnings of prompts that are kept when they were run: prompts that begin so again run only what comes after.

For whoever is asked again and again after the same demonstrations, such as a server. What stands before a prompt's
question is kept when it comes for the second time, as many tensors as fit; those that were used last stay.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from kshot.models.hf import Backbone

MOST_BYTES = 1024 * 2**20
_LEAST_TOKENS, _MOST_SEEN = 8, 4096


@dataclass(eq=False)
class Beginning:
    """Tokens that were run.

    Attributes:
        n: How many.
        kept: Of each layer, keys and values `[kv_heads, room, dim]`, whose first `n` rows are those of the tokens. Who
            runs what comes after writes it behind them where there is room, and else into tensors of its own.
        flags: Of each token (`kshot.engine.trie.flagged`); none: 0.
    """

    n: int
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    flags: tuple[int, ...] = ()

    @property
    def n_bytes(self) -> int:
        """What the tensors take."""
        return sum(t.nbytes for pair in self.kept.values() for t in pair)


Key = tuple[str, tuple[int, ...]]  # what the answers of a model depend on; the tokens, with their flags


class Memory:
    """Beginnings, by model and tokens; used by one thread at a time.

    Args:
        most_bytes: What all of them may take.
    """

    def __init__(self, most_bytes: int = MOST_BYTES):
        self._most_bytes = most_bytes
        self._known: OrderedDict[Key, Beginning] = OrderedDict()
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes: the tokens of thousands would take much

    def get(self, key: Key) -> Beginning | None:
        """Return a beginning that is kept."""
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def is_worth(self, key: Key, times: int) -> bool:
        """Return whether a beginning should be kept: it is no mere word or two, and has come before.

        Args:
            key: The beginning.
            times: How many prompts have it now.
        """
        mark = hash(key)
        came_before = mark in self._seen
        self._seen[mark] = None
        self._seen.move_to_end(mark)
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return len(key[1]) >= _LEAST_TOKENS and (came_before or times > 1)

    def put(self, key: Key, beginning: Beginning) -> None:
        """Keep a beginning that has room, and forget those that were not used for longest, where all take too much."""
        if beginning.n_bytes > self._most_bytes:
            return
        self._known[key] = beginning
        while self.n_bytes > self._most_bytes:
            self._known.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """What all of them take."""
        return sum(b.n_bytes for b in self._known.values())


_MEMORIES: WeakKeyDictionary[Backbone, Memory] = WeakKeyDictionary()


def memory_of(backbone: Backbone) -> Memory:
    """Return the memory of a backbone: one for all models on it, so that they share what there is room for."""
    return _MEMORIES.setdefault(backbone, Memory())


def groups(beginnings: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Return for each beginning the numbers of the prompts that have it, in their order."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, ids in enumerate(beginnings):
        found.setdefault(ids, []).append(i)
    return found
