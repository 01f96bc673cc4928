"""SGLang's score request: probabilities of named token ids after each of many texts, in one request."""

from typing import Any, Literal

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.known import known_requests, why_wrong
from kshot.models.remote.label_tree import Ids, LabelTree, Node, tree_of
from kshot.models.remote.route import Reading, Service

_MOST_TOKENS, _MOST_ITEMS = 4096, 64
_SAME = 0.1  # nats by which two ways to ask the same may differ
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
    scores = np.array(answer.get("scores") if isinstance(answer, dict) else None, dtype=object)
    if scores.shape != (len(part), len(asked)):
        raise ModelError(
            f"The server of '{model}' must give {len(part)} rows of {len(asked)} scores; it gives an array of shape "
            f"{scores.shape}. Take another --api route=NAME."
        )
    try:
        numbers = scores.astype(float)
    except (TypeError, ValueError):
        numbers = np.full(scores.shape, np.nan)
    if not ((numbers >= 0) & (numbers <= 1)).all() or (numbers.sum(axis=1) > 1.01).any():
        raise ModelError(
            f"The server of '{model}' must score with probabilities over all tokens; it gives numbers that are none. "
            "Take another --api route=NAME."
        )
    logs = np.log(np.maximum(numbers, _LEAST))
    column = {token: at for at, token in enumerate(asked)}
    return {
        (prefix, token): float(row[column[token]])
        for (prefix, tokens), row in zip(part, logs, strict=True)
        for token in tokens
    }
