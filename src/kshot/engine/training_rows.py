"""Texts one after the other in a row, each seeing itself alone, and the losses of their answers.

Logits are computed only where an answer's token is predicted. Where an architecture cannot be packed, texts are run
one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from kshot.core.errors import ModelError
from kshot.models.hf import Backbone


@dataclass(frozen=True, eq=False)
class Past:
    """Keys and values of tokens that stand before a text and are not run again, by layer `[kv_heads, n, dim]`."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    @property
    def n(self) -> int:
        """How many tokens."""
        return self.keys[0].shape[1] if self.keys else 0

    @property
    def n_bytes(self) -> int:
        """What it takes."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


_NOTHING = Past()
MOST_SIDE_BY_SIDE = 1024  # tokens of texts that are remembered in one row


@dataclass(frozen=True)
class TrainingRow:
    """A text to be learnt.

    Attributes:
        ids: Its tokens.
        supervised: The positions whose tokens are learnt (never the first).
        soft: The positions where vectors stand instead of tokens; their ids do not count.
        marked: The positions where activations are changed.
        mark: Which change is made there.
        among: For each supervised position the tokens that there are to choose from; empty: all of the vocabulary.
        shares: For each supervised position the tokens that may stand there, each with how probable it is to become;
            empty: its own token alone.
        past: What stands before `ids`; positions are counted from the first of these.
        weight: How much the text counts in the mean over a step.
        teacher: The target's answer after what the teacher reads; that answer is what is supervised in it.
        rejected: The text with an answer that is to become less probable.
        token_weights: How much each supervised token counts; empty: all alike, 1.
        advantage: By how much its answer did better than expected, below 0 if worse; None: that is not known.
    """

    ids: tuple[int, ...]
    supervised: tuple[int, ...]
    soft: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    mark: int = 1
    among: tuple[tuple[int, ...], ...] = ()
    shares: tuple[tuple[tuple[int, float], ...], ...] = ()
    past: Past = _NOTHING
    weight: float = 1.0
    teacher: "TrainingRow | None" = None
    rejected: "TrainingRow | None" = None
    token_weights: tuple[float, ...] = ()
    advantage: float | None = None

    @property
    def n_weighed(self) -> float:
        """How much its supervised tokens count together."""
        return sum(self.token_weights) if self.token_weights else len(self.supervised)

    @property
    def record(self) -> list[Any]:
        """What is learnt, for a fingerprint."""
        others = [other and other.record for other in (self.teacher, self.rejected)]
        weights = [list(self.token_weights)] if self.token_weights else []
        shares = [[[list(pair) for pair in share] for share in self.shares]] if self.shares else []
        better = [] if self.advantage is None else [{"advantage": self.advantage}]
        return [self.ids, self.supervised, self.weight, *others, *self.among, *weights, *shares, *better]


def parts(
    rows: Sequence[TrainingRow],
    *,
    can_pack: bool,
    max_tokens: int,
    size: Callable[[TrainingRow], int] = lambda row: len(row.ids),
) -> Iterator[list[TrainingRow]]:
    """Divide texts into those that are run at once, in their order: as many as fit, but at least one.

    Args:
        rows: The texts.
        can_pack: Whether several may be run at once.
        max_tokens: Most tokens that are run at once.
        size: How many tokens are run for a text.
    """
    part: list[TrainingRow] = []
    for row in rows:
        if part and (not can_pack or sum(size(r) for r in (*part, row)) > max_tokens):
            yield part
            part = []
        part.append(row)
    yield part


def answer_logits(
    backbone: Backbone, rows: Sequence[TrainingRow], soft: torch.Tensor | None = None, *, from_inputs: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits from which each supervised token is predicted, text by text, and these tokens.

    Where a text has `among`, the logits of all other tokens are minus infinity.

    Args:
        backbone: The network.
        rows: What is run at once.
        soft: The vectors at the texts' soft positions `[n_rows, n_soft, width]`.
        from_inputs: Make the result depend on the inputs' embeddings, so that it has gradients with respect to
            whatever is computed on the way, though no weight is trained.

    Returns:
        Logits `[n_supervised, vocab]` and tokens `[n_supervised]`.
    """
    _check_unweighed(backbone)
    device = backbone.device
    ids = torch.tensor([i for row in rows for i in row.ids], device=device)
    lengths = torch.tensor([len(row.ids) for row in rows], device=device)
    starts = (torch.cumsum(lengths, 0) - lengths).tolist()
    targets = _places(starts, [row.supervised for row in rows], device)
    positions = torch.cat([torch.arange(len(row.ids), device=device) + row.past.n for row in rows])
    pasts = [row.past for row in rows]
    attend = _BlockAttention(lengths, positions, pasts) if len(rows) > 1 or pasts[0].n else None
    embedded = backbone.embed(ids).requires_grad_(from_inputs) if soft is not None or from_inputs else None
    if embedded is not None and soft is not None:
        places = _places(starts, [row.soft for row in rows], device)
        embedded = embedded.index_copy(0, places, soft.reshape(len(places), -1).to(embedded.dtype))
    places = {}
    for mark in {row.mark for row in rows if row.marked}:
        at = _places(starts, [row.marked if row.mark == mark else () for row in rows], device)
        places[mark] = torch.zeros_like(at), at
    logits = backbone.row_logits(ids, positions, attend, targets - 1, embedded, places)
    among = [choice for row in rows for choice in row.among or [()] * len(row.supervised)]
    if any(among):
        barred = torch.zeros_like(logits, dtype=torch.bool)
        for i, choice in enumerate(among):
            barred[i] = bool(choice)
            barred[i, list(choice)] = False
        logits = logits.masked_fill(barred, -torch.inf)
    return logits, ids[targets]


def answer_losses(
    backbone: Backbone, rows: Sequence[TrainingRow], soft: torch.Tensor | None = None, *, from_inputs: bool = False
) -> torch.Tensor:
    """Return the negative log-probability in nats of each supervised token, text by text `[n_supervised]`.

    Where a text has `among`, it is that among these tokens; arguments as `answer_logits`.
    """
    return cross_entropy(*answer_logits(backbone, rows, soft, from_inputs=from_inputs), reduction="none")


def _places(starts: Sequence[int], inside: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return where positions of texts stand in the row."""
    at = [s + at for s, own in zip(starts, inside, strict=True) for at in own]
    return torch.tensor(at, dtype=torch.int64, device=device)


def _check_unweighed(backbone: Backbone) -> None:
    if backbone.log_weights:
        raise ModelError(
            f"Texts are learnt under attention as it is, and that of '{backbone.name}' is weighed by a steering. Train "
            "without it, and steer afterwards."
        )


def _counts(pasts: Sequence[Past], device: torch.device) -> torch.Tensor:
    return torch.tensor([past.n for past in pasts], device=device)


def remember(backbone: Backbone, texts: Sequence[Sequence[int]]) -> list[Past]:
    """Run texts, and return the keys and values of each.

    They stand side by side in rows of some `MOST_SIDE_BY_SIDE` tokens, as attention goes by the square of a row.
    """
    _check_unweighed(backbone)
    pasts, row, n = list[Past](), list[Sequence[int]](), 0
    for text in texts:
        if row and n + len(text) > MOST_SIDE_BY_SIDE:
            pasts += _remembered(backbone, row)
            row, n = [], 0
        row.append(text)
        n += len(text)
    return [*pasts, *(_remembered(backbone, row) if row else ())]


@torch.no_grad()
def _remembered(backbone: Backbone, texts: Sequence[Sequence[int]]) -> list[Past]:
    device = backbone.device
    ids = torch.tensor([i for text in texts for i in text], device=device)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    positions = torch.cat([torch.arange(len(text), device=device) for text in texts])
    attend, pasts = _BlockAttention(lengths, positions, [_NOTHING] * len(texts)), [Past() for _ in texts]

    def kept(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *how: Any) -> torch.Tensor:
        for past, k, v in zip(pasts, *(t.split(lengths.tolist(), dim=1) for t in (key, value)), strict=True):
            past.keys.append(k.clone())
            past.values.append(v.clone())
        return attend(layer, query, key, value, *how)

    backbone.row_logits(ids, positions, kept, ids[:0])
    return pasts


class _BlockAttention:
    """Attention of texts that stand in one row: every token sees those of its own text that are not after it.

    Args:
        lengths: Of the texts `[n_texts]`.
        positions: Of each token in its text `[n]`.
        pasts: What stands before each text.
    """

    def __init__(self, lengths: torch.Tensor, positions: torch.Tensor, pasts: Sequence[Past]):
        self._lengths, self._positions = lengths, positions
        self._pasts = [past for past in pasts if past.n]
        self._n_before = _counts(pasts, lengths.device)
        self._longest = int(lengths.max())
        n_padded = len(lengths) * self._longest
        # Side by side, with padding behind the shorter ones, unless there would be more of it than of other texts
        self._is_batch = not self._pasts and n_padded * self._longest < len(positions) ** 2
        self._masks: dict[int | None, torch.Tensor] = {}

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
        groups = query.shape[0] // key.shape[0]
        if self._is_batch and (window is None or window >= self._longest):
            queries, keys, values = map(self._padded, (query, key, value))
            keys, values = (t.repeat_interleave(groups, dim=1) for t in (keys, values))
            found = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
            return found.transpose(0, 1).flatten(1, 2)[:, self._places]  # [heads, n_texts * longest, dim] -> n
        if window not in self._masks:
            self._masks[window] = self._seen if window is None else self._seen & (self._distance < window)
        key = torch.cat([*(past.keys[layer] for past in self._pasts), key], dim=1)
        value = torch.cat([*(past.values[layer] for past in self._pasts), value], dim=1)
        keys, values = (t.repeat_interleave(groups, dim=0)[None] for t in (key, value))
        return scaled_dot_product_attention(query[None], keys, values, attn_mask=self._masks[window], scale=scale)[0]

    def _padded(self, row: torch.Tensor) -> torch.Tensor:
        """Return a row `[heads, n, dim]` as a batch of its texts `[n_texts, heads, longest, dim]`."""
        n_heads, _, size = row.shape
        empty = row.new_zeros(n_heads, len(self._lengths) * self._longest, size)
        return empty.index_copy(1, self._places, row).unflatten(1, (-1, self._longest)).transpose(0, 1)

    @cached_property
    def _places(self) -> torch.Tensor:
        """Where each token stands in a padded batch `[n]`."""
        starts = torch.arange(len(self._lengths), device=self._lengths.device) * self._longest
        return torch.repeat_interleave(starts, self._lengths) + self._positions

    @cached_property
    def _distance(self) -> torch.Tensor:
        """How far before a token each one stands that it could see `[n, n_before + n]`."""
        places = [torch.arange(past.n, device=self._positions.device) for past in self._pasts]
        return self._positions[:, None] - torch.cat([*places, self._positions])

    @cached_property
    def _seen(self) -> torch.Tensor:
        """Which tokens each one sees `[n, n_before + n]`."""
        number = torch.arange(len(self._lengths), device=self._lengths.device)
        text, before = (torch.repeat_interleave(number, n) for n in (self._lengths, self._n_before))
        return (text[:, None] == torch.cat([before, text])) & (self._distance >= 0)
