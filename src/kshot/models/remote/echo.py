"""Completions that repeat the prompt with its log-probabilities (`echo`): each label's text is scored as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.types import ScoreRequest
from kshot.models.remote.chatting import choices_of
from kshot.models.remote.known import why_wrong
from kshot.models.remote.route import Reading, Service, Takes, is_log_prob
from kshot.models.remote.tokenizing import tokenizer_of


@dataclass(frozen=True)
class Echo:
    """Ask for prompt and continuation together, one text a continuation, and add up the continuation's part.

    Where the server has a tokenizer to ask, it is sent the ids of the segments, as in-process models read them; else
    texts, whose continuations must begin where a token begins.
    """

    name: str = "echo"
    trust: Literal["exact", "labels", "sampled"] = "exact"
    in_messages: bool = False
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(self, service)

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        return Takes(prompts=len(texts))

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation.

        Raises:
            ModelError: The answer repeats something else, or lacks log-probabilities.
        """
        tokenizer = await tokenizer_of(service)
        sent: list[Any]
        if tokenizer:
            prompt = await tokenizer.prompt_ids(request.prompt)
            ends = [list(await tokenizer.ids(text)) for text in request.continuations]
            sent = [prompt + end for end in ends]
        else:
            sent, ends = [request.prompt.text + text for text in request.continuations], []
        body = {"model": service.model, "prompt": sent, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        answer = await service.post("/completions", body)
        choices = choices_of(answer)
        if len(choices) != len(sent):
            raise self._lacks(service, f"an answer to each of {len(sent)} texts")
        rows = [self._row(service, choice) for choice in choices]
        if tokenizer:
            self._check_place(service, [row[1] for row in rows], sent)
            sums = [
                self._last(service, row[0], len(text), len(end))
                for row, text, end in zip(rows, sent, ends, strict=True)
            ]
        else:
            start = len(request.prompt.text)
            sums = [self._after(service, *row, text, start) for row, text in zip(rows, sent, strict=True)]
        return Reading(np.array(sums))

    def _row(self, service: Service, choice: Mapping[str, Any]) -> tuple[list[float | None], list[str]]:
        said = choice.get("logprobs")
        values = said.get("token_logprobs") if isinstance(said, Mapping) else None
        tokens = said.get("tokens") if isinstance(said, Mapping) else None
        if not isinstance(values, list) or not isinstance(tokens, list) or len(values) != len(tokens):
            raise self._lacks(service, "log-probabilities of the text's own tokens")
        return values, tokens

    def _check_place(self, service: Service, told: list[list[str]], sent: list[list[int]]) -> None:
        """Refuse an echo with a token more where it is as likely to stand before those that were sent as after them."""
        if all(len(tokens) <= len(ids) for tokens, ids in zip(told, sent, strict=True)):
            return
        if len(sent) > 1 and _n_unlike(told, sent, 0) >= _n_unlike(told, sent, 1):
            raise self._lacks(service, "the tokens that were sent, with none before them")

    def _last(self, service: Service, values: Sequence[float | None], n_sent: int, n_end: int) -> float:
        """Return the sum of the last tokens of those that were sent; one that was written after them is left out."""
        if not n_sent <= len(values) <= n_sent + 1:
            raise self._lacks(service, f"log-probabilities of all {n_sent} tokens that were sent; got {len(values)}")
        return self._sum(service, values[n_sent - n_end : n_sent])

    def _after(
        self, service: Service, values: Sequence[float | None], tokens: Sequence[str], text: str, start: int
    ) -> float:
        """Return the sum of the tokens of a text from a place on."""
        place, found = 0, list[float | None]()
        for i, (value, token) in enumerate(zip(values, tokens, strict=True)):
            if place >= len(text):
                break  # what was written after the text
            if not isinstance(token, str):
                raise self._lacks(service, "the texts of its tokens")
            if not text.startswith(token, place):
                if i == 0:  # the beginning of the sequence, which is no text
                    continue
                raise self._lacks(service, "the same text again")
            if place >= start:
                found.append(value)
            elif place + len(token) > start:
                raise ModelError(
                    f"A label must begin where a token of '{service.model}' begins; the token {token!r} holds the end "
                    "of the prompt too. Take another --api route."
                )
            place += len(token)
        if place < len(text):
            raise self._lacks(service, "the whole text again")
        return self._sum(service, found)

    def _sum(self, service: Service, values: Sequence[float | None]) -> float:
        if not values or not all(map(is_log_prob, values)):
            raise self._lacks(service, "a log-probability of each token of a label")
        return float(sum(value for value in values if value is not None))

    def _lacks(self, service: Service, what: str) -> ModelError:
        return ModelError(
            f"To an echoed completion '{service.model}' must answer {what}; it does not. Take another --api route, or "
            "another server."
        )


def _n_unlike(told: list[list[str]], sent: list[list[int]], start: int) -> int:
    """Return how often equal ids have different texts, or different ids equal ones, if the echo begins at `start`."""
    pairs = {
        (number, repr(text))
        for tokens, ids in zip(told, sent, strict=True)
        for number, text in zip(ids, tokens[start:], strict=False)
    }
    return 2 * len(pairs) - len({number for number, _ in pairs}) - len({text for _, text in pairs})
