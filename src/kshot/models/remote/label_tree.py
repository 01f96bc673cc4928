"""A label set as a tree of token ids: what has to be asked of a model so that each label's probability is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kshot.core.errors import ModelError, SameTokensError, UserError
from kshot.core.types import FloatArray, ScoreRequest
from kshot.models.remote.route import Service
from kshot.models.remote.tokenizing import Tokenizer, tokenizer_of

Ids = tuple[int, ...]
Node = tuple[Ids, Ids]  # what stands behind the prompt, and the tokens that are asked for after it
_EMPTY = "A prompt and each of its continuations must have at least one token; got an empty text."


@dataclass(frozen=True)
class LabelTree:
    """A request in token ids.

    Attributes:
        prompt: Those of the prompt, segment by segment.
        labels: Those of each continuation.
    """

    prompt: Ids
    labels: tuple[Ids, ...]

    @property
    def nodes(self) -> list[Node]:
        """Every beginning of a label, with the tokens by which labels go on there; the empty one first."""
        found: dict[Ids, dict[int, None]] = {}
        for label in self.labels:
            for at, token in enumerate(label):
                found.setdefault(label[:at], {})[token] = None
        return [(prefix, tuple(tokens)) for prefix, tokens in found.items()]

    def calls(self, *, most_tokens: int, most_nodes: int) -> Iterator[list[Node]]:
        """Return the nodes in parts that ask for so many different tokens at most, of so many prompts.

        A node with more tokens is asked several times.
        """
        part, tokens = list[Node](), set[int]()
        for prefix, asked in self.nodes:
            for at in range(0, len(asked), most_tokens):
                some = asked[at : at + most_tokens]
                if part and (len(part) == most_nodes or len(tokens.union(some)) > most_tokens):
                    yield part
                    part, tokens = [], set()
                part.append((prefix, some))
                tokens.update(some)
        yield part

    def log_probs(self, read: Mapping[tuple[Ids, int], float]) -> FloatArray:
        """Return the log-probability of each label, in nats, from those of a token after a beginning."""
        return np.array([sum(read[label[:at], token] for at, token in enumerate(label)) for label in self.labels])


async def labels_of(service: Service, texts: Sequence[str]) -> LabelTree:
    """Return the continuations of a request in the token ids of a server's own tokenizer, without its prompt.

    Raises:
        UserError: A text without tokens, or two that are the same tokens.
        ModelError: The server has no tokenizer that can be asked.
    """
    tokenizer = await _tokenizer(service)
    labels = tuple([await tokenizer.ids(text) for text in texts])
    if not all(labels):
        raise UserError(_EMPTY)
    if len(set(labels)) < len(labels):
        i, j = next((labels.index(ids), j) for j, ids in enumerate(labels) if labels.index(ids) < j)
        raise SameTokensError(texts[i], texts[j])
    return LabelTree((), labels)


async def tree_of(service: Service, request: ScoreRequest) -> LabelTree:
    """Return a request in the token ids of a server's own tokenizer.

    Raises:
        UserError: A text without tokens, or two continuations that are the same tokens.
        ModelError: The server has no tokenizer that can be asked.
    """
    prompt = tuple(await (await _tokenizer(service)).prompt_ids(request.prompt))
    if not prompt:
        raise UserError(_EMPTY)
    return replace(await labels_of(service, request.continuations), prompt=prompt)


async def _tokenizer(service: Service) -> Tokenizer:
    tokenizer = await tokenizer_of(service)
    if tokenizer is None:
        raise ModelError(
            f"The server of '{service.model}' must tokenise texts where token ids are asked for; it has no /tokenize. "
            "Take another --api route=NAME."
        )
    return tokenizer


def first_row(said: Any, name: str) -> Mapping[str, Any]:
    """Return the first of the rows that an answer says under a name, or an empty one."""
    rows = said.get(name) if isinstance(said, Mapping) else None
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], Mapping) else {}
