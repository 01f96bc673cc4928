"""Answers written token by token: after prefixes that are shared, many at once, within stops and allowed answers.

The prompts' tree is run pack by pack as for scoring, but rows are remembered until a group of prompts is complete.
Then all answers of the group are written together: a step is one row with one token for each unfinished answer, and
each token sees its own prompt's path and its own answer. Groups depend on the tree alone, so a resumed run writes the
same groups again.

Source: batched decoding after shared prefixes as in Juravsky et al. (2024), Hydragen, https://arxiv.org/abs/2402.05099.
Differs: one masked attention over all remembered rows, which is enough for groups of this size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import torch

from kshot.core.control_tokens import without_marks
from kshot.core.errors import NotFiniteError
from kshot.core.seeding import generator
from kshot.core.types import Generation
from kshot.engine.attention import TreeAttention
from kshot.engine.remembered import Beginning
from kshot.engine.scoring import placed, run_pack
from kshot.engine.trie import IntArray, Tree
from kshot.models.hf import Backbone


@dataclass(frozen=True)
class Decoding:
    """How an answer is to be written, in token ids; the fields are those of `GenerateRequest`."""

    max_tokens: int
    stop: tuple[str, ...]
    temperature: float
    seed: int
    allowed: tuple[tuple[int, ...], ...]


@dataclass(eq=False)
class Answer:
    """An answer that is being written.

    Attributes:
        index: Which request it answers.
        ids: Token ids so far.
        result: The finished answer; None while it is being written.
    """

    index: int
    prompt: tuple[int, ...]
    decoding: Decoding
    ids: list[int] = field(default_factory=list)
    result: Generation | None = None

    def __post_init__(self):
        self._rng = generator(self.decoding.seed, "generate", *self.prompt)

    def write(self, logits: torch.Tensor, backbone: Backbone) -> None:
        """Add the next token, given logits `[vocab]`, and finish if it is the last."""
        token = self._choose(logits)
        how = self.decoding
        if token in backbone.last_ids and not how.allowed:
            self.result = Generation(without_marks(backbone.detokenise(self.ids)), True)
            return
        self.ids.append(token)
        text = backbone.detokenise(self.ids)  # a control token that is spelled is no stop: it has a mark
        stops = [at for at in map(text.find, how.stop) if at >= 0]
        complete = tuple(self.ids) in how.allowed
        if stops or complete or len(self.ids) == how.max_tokens:
            self.result = Generation(without_marks(text[: min(stops, default=None)]), bool(stops) or complete)

    def _choose(self, logits: torch.Tensor) -> int:
        how, n = self.decoding, len(self.ids)
        if how.allowed:
            allowed = sorted({a[n] for a in how.allowed if list(a[:n]) == self.ids})
            return allowed[self._pick(logits[allowed])]
        return self._pick(logits)

    def _pick(self, logits: torch.Tensor) -> int:
        """Return the index of the largest logit, or of a drawn one."""
        best = int(logits.argmax())
        if not isfinite(float(logits[best])):  # NaN is the largest of all
            raise NotFiniteError(
                f"A token's logits must be finite numbers; after {len(self.ids)} tokens of an answer they are not. Use "
                "--dtype float32, or another --model."
            )
        if self.decoding.temperature == 0:
            return best
        weights = torch.softmax(logits.double() / self.decoding.temperature, dim=0).cpu().numpy()
        return min(int(np.searchsorted(np.cumsum(weights), self._rng.random())), len(weights) - 1)


def groups_of(
    tree: Tree, packs: Sequence[tuple[int, int]], *, max_rows: int, max_answers: int
) -> list[tuple[int, int]]:
    """Divide the packs into consecutive groups (first, after the last), whose prompts are answered together.

    Args:
        tree: The tree.
        packs: All of `cut`.
        max_rows: A group ends when so many tokens have to be remembered.
        max_answers: A group ends when it has so many prompts.
    """
    groups, first = [], 0
    for number, (_, stop) in enumerate(packs):
        start = packs[first][0]
        n_rows = int(tree.depths[start]) + stop - start
        n_answers = int(np.diff(np.searchsorted(tree.positions, [start, stop]))[0])
        is_last = number + 1 == len(packs)
        if is_last or (n_answers and n_rows >= max_rows) or n_answers >= max_answers:
            groups.append((first, number + 1))
            first = number + 1
    return groups


def needed_groups(
    tree: Tree, packs: Sequence[tuple[int, int]], groups: Sequence[tuple[int, int]], slots: IntArray
) -> list[tuple[int, bool]]:
    """Return (group, whether it is answered) of the groups to be run so that `slots` are answered.

    A group that only holds what another one builds on is run, whole, but not answered.
    """
    wanted = np.zeros(len(tree.tokens), dtype=bool)
    wanted[tree.positions[np.isin(tree.slots, slots)]] = True
    needed = np.zeros(len(tree.tokens), dtype=bool)
    chosen: list[tuple[int, bool]] = []
    for number in range(len(groups) - 1, -1, -1):
        first, behind = groups[number]
        start, stop = packs[first][0], packs[behind - 1][1]
        answered = bool(wanted[start:stop].any())
        if answered or needed[start:stop].any():
            needed[:start] |= tree.ends[:start] > start
            chosen.append((number, answered))
    return chosen[::-1]


def generate_packed(
    backbone: Backbone,
    tree: Tree,
    packs: Sequence[tuple[int, int]],
    groups: Sequence[tuple[int, int]],
    todo: Sequence[tuple[int, bool]],
    prompts: Sequence[tuple[int, ...]],
    decodings: Sequence[Decoding],
    begun: Beginning | None = None,
) -> Iterator[list[Answer]]:
    """Write answers group by group.

    Args:
        backbone: The network.
        tree: Of the prompts, each with one slot at its end.
        packs: All of `cut`.
        groups: All of `groups_of`.
        todo: Of `needed_groups`.
        prompts: Token ids of each prompt.
        decodings: For each prompt.
        begun: What stands before the tree.

    Yields:
        The finished answers of each group that is to be answered.
    """
    attend = TreeAttention(tree, backbone, begun)
    for i, (number, answered) in enumerate(todo):
        ends: list[int] = []
        answers: list[Answer] = []
        logits: list[torch.Tensor] = []
        for start, stop in packs[slice(*groups[number])]:
            inside = slice(*np.searchsorted(tree.positions, [start, stop]))
            keep, rows = np.unique(tree.positions[inside] - start, return_inverse=True)
            found = run_pack(backbone, tree, attend, start, stop, keep)
            ends += tree.positions[inside].tolist()
            answers += [Answer(s, prompts[s], decodings[s]) for s in tree.slots[inside].tolist()]
            logits += list(found[torch.from_numpy(rows).to(found.device)])
        if answered:
            _write_all(backbone, tree, attend, ends, answers, logits)
            yield answers
        if i + 1 < len(todo):
            attend.close(packs[groups[todo[i + 1][0]][0]][0])


@torch.inference_mode()
def _write_all(
    backbone: Backbone,
    tree: Tree,
    attend: TreeAttention,
    ends: Sequence[int],
    answers: Sequence[Answer],
    logits: Sequence[torch.Tensor],
) -> None:
    """Write all answers of a group to their ends; `ends` are the last tokens of their prompts in the tree."""
    device = backbone.device
    for answer, first in zip(answers, logits, strict=True):
        answer.write(first, backbone)
    last = torch.tensor(ends, device=device)
    seen, depths = attend.path_to(last), torch.from_numpy(tree.depths).to(device)[last]
    going = list(range(len(answers)))
    while True:
        live = [j for j, i in enumerate(going) if answers[i].result is None]
        if not live:
            return
        going = [going[j] for j in live]
        seen, depths = seen[live], depths[live] + 1
        seen = torch.cat([seen, torch.eye(len(going), dtype=torch.bool, device=device)], dim=1)
        attend.open_generated(seen, depths)
        tokens = torch.tensor([answers[i].ids[-1] for i in going], device=device)
        everywhere = torch.arange(len(going), device=device)
        for i, row in zip(going, backbone.packed_logits(tokens, depths, attend, everywhere), strict=True):
            answers[i].write(row, backbone)


def generate_plain(backbone: Backbone, prompt: tuple[int, ...], decoding: Decoding) -> Generation:
    """Write one answer with a whole forward pass for each token: for architectures that cannot be packed."""
    answer = Answer(0, prompt, decoding)
    places = {1: placed(backbone, [len(prompt) - 1])}
    while answer.result is None:
        answer.write(backbone.plain_logits([[*prompt, *answer.ids]], places)[0][-1], backbone)
    return answer.result
