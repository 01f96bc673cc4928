"""SGLang's score request: probabilities of named token ids after each of many texts, in one request."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, Literal

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.known import known_requests, why_wrong
from kshot.models.remote.label_tree import Ids, LabelTree, Node, labels_of, tree_of
from kshot.models.remote.route import Reading, Service, Takes

_MOST_TOKENS, _MOST_ITEMS = 4096, 64
_SAME = 0.1  # nats by which two ways to ask the same may differ
_MOST_SUM = 1.01  # of probabilities in 16 bits
_LEAST = float(np.finfo(float).tiny)  # what is said of a token that is next to impossible


class SglangScore:
    """Ask for the tokens of all labels, with the prompt as the query and every beginning of a label as an item.

    Without softmax over the labels SGLang gives each token's probability over the whole vocabulary.

    Source: SGLang, /v1/score, https://docs.sglang.io/docs/supported-models/decision_models and `score_request` in
    python/sglang/srt/managers/tokenizer_manager_score_mixin.py.
    """

    name: str = "score"
    trust: Literal["exact", "labels", "sampled"] = "exact"
    in_messages: bool = False
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can.

        Where the server puts a delimiter between query and item, what it says depends on where the one ends.
        """
        why = await why_wrong(self, service)
        if why is not None:
            return why
        request, _ = known_requests(self.in_messages)[0]
        one, two = [(await self._reading(service, request, in_item=n)).log_probs for n in (1, 2)]
        if np.abs(one - two).max() > _SAME:
            return "where the query ends changes what it says, as with --enable-mis or a delimiter between items"
        return None

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        parts = list((await labels_of(service, texts)).calls(most_tokens=_MOST_TOKENS, most_nodes=_MOST_ITEMS))
        return Takes(len(parts), sum(map(len, parts)))

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation's own tokens after those of the prompt."""
        return await self._reading(service, request, in_item=1)

    async def _reading(self, service: Service, request: ScoreRequest, *, in_item: int) -> Reading:
        """Ask with the last `in_item` tokens of the prompt in each item, as an item cannot be empty."""
        tree = await tree_of(service, request)
        read = dict[tuple[Ids, int], float]()
        for part in tree.calls(most_tokens=_MOST_TOKENS, most_nodes=_MOST_ITEMS):
            body = _body(service.model, tree, part, in_item)
            read |= _read(service.model, part, body["label_token_ids"], await service.post("score", body))
        return Reading(tree.log_probs(read))


def _body(model: str, tree: LabelTree, part: list[Node], in_item: int) -> dict[str, Any]:
    return {
        "model": model,
        "query": list(tree.prompt[:-in_item]),
        "items": [[*tree.prompt[-in_item:], *prefix] for prefix, _ in part],
        "label_token_ids": sorted({token for _, tokens in part for token in tokens}),
        "apply_softmax": False,
        "item_first": False,
    }


def _read(model: str, part: list[Node], asked: list[int], answer: Any) -> dict[tuple[Ids, int], float]:
    scores = answer.get("scores") if isinstance(answer, Mapping) else None
    rows = [row for row in scores if isinstance(row, list)] if isinstance(scores, list) else []
    if [len(row) for row in rows] != [len(asked)] * len(part):
        raise ModelError(
            f"The server of '{model}' must give {len(part)} rows of {len(asked)} scores; it gives rows of "
            f"{sorted({len(row) for row in rows})}. Take another --api route=NAME."
        )
    if not all(_is_distribution(row) for row in rows):
        raise ModelError(
            f"The server of '{model}' must score with probabilities over all tokens; it gives numbers that are none. "
            "Take another --api route=NAME."
        )
    column = {token: at for at, token in enumerate(asked)}
    return {
        (prefix, token): log(max(row[column[token]], _LEAST))
        for (prefix, tokens), row in zip(part, rows, strict=True)
        for token in tokens
    }


def _is_distribution(row: list[Any]) -> bool:
    """Return whether values can be probabilities of different tokens."""
    are_shares = all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 for p in row)
    return are_shares and sum(row) <= _MOST_SUM
