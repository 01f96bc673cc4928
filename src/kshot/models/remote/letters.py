"""The first token of a chat's answer, with the likeliest others: labels stand behind letters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.seeding import generator
from kshot.core.types import ScoreRequest
from kshot.models.remote.chatting import CHAT, chat_body, choices_of, instructed
from kshot.models.remote.known import LEAST_MASS, why_wrong
from kshot.models.remote.route import Reading, Service, Takes, is_log_prob

MOST = 20  # of the likeliest tokens that services tell
MOST_MASS = 1.01  # by which rounding may pass 1


@dataclass(frozen=True)
class Letters:
    """Ask for one letter, and read the probabilities of all of them among the likeliest first tokens.

    Which label stands behind which letter is drawn from the request without its query, so that the prompt's beginning
    is the same for all queries, which the service reads once; what a model likes of a letter is then a liking for a
    label, which calibration takes out. Demonstrations answer with letters too. Labels that are letters already, as
    "(A)", stand for themselves. A letter that is not among the likeliest
    tokens gets what they leave, at most as much as the least of them.
    """

    name: str = "letters"
    trust: Literal["exact", "labels", "sampled"] = "labels"
    in_messages: bool = True
    most: int | None = MOST

    async def probe(self, service: Service) -> str | None:
        """Return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(self, service)

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        return Takes()

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation among all of them, and what all letters had together.

        Raises:
            ModelError: The answer has no log-probabilities, too few of them, or begins with something else.
        """
        letters = own_letters(request) or lettered(request)
        shown = "\n".join(f"{letter}: {text}" for text, letter in sorted(letters.items(), key=lambda pair: pair[1]))
        if own_letters(request):
            shown = ", ".join(letters.values())
        messages = instructed(request, f"Answer with the letter alone, and nothing else:\n{shown}", letters)
        body = chat_body(service, messages, max_tokens=1) | {"temperature": 0, "logprobs": True, "top_logprobs": MOST}
        tops = self._tops(service, await service.post(CHAT, body))
        said = {letter: -inf for letter in letters.values()}
        for token, log_prob in tops:
            if (letter := token.replace("▁", " ").strip()) in said:
                said[letter] = float(np.logaddexp(said[letter], log_prob))
        return self._reading(service, [said[letters[text]] for text in request.continuations], tops)

    def _tops(self, service: Service, answer: Any) -> list[tuple[str, float]]:
        choices = choices_of(answer)
        logprobs = choices[0].get("logprobs") if choices else None
        content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        first = content[0] if isinstance(content, list) and content and isinstance(content[0], Mapping) else {}
        rows = first.get("top_logprobs")
        rows = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        found = {
            (str(row.get("token")), repr(row.get("bytes"))): row["logprob"]  # one that is told twice counts once
            for row in rows
            if is_log_prob(row.get("logprob"))
        }
        if not rows or not all(is_log_prob(row.get("logprob")) for row in rows):
            raise ModelError(
                f"'{service.model}' must tell log-probabilities of its first token; it answers without them. Take "
                "another --api route, or another server."
            )
        return [(token, log_prob) for (token, _), log_prob in found.items()]

    def _reading(self, service: Service, found: list[float], tops: list[tuple[str, float]]) -> Reading:
        missing = [i for i, value in enumerate(found) if value == -inf]
        if missing and len(tops) < MOST:
            raise ModelError(
                f"'{service.model}' must tell the {MOST} likeliest first tokens, as {len(missing)} labels are not "
                f"among those that it tells; got {len(tops)}. Take another --api route, or another server."
            )
        mass = sum(exp(value) for value in found)
        if mass > MOST_MASS:
            raise ModelError(
                f"'{service.model}' must tell log-probabilities whose probabilities sum to 1 at most; those of the "
                f"labels sum to {mass:.2f}. Take another --api route, or another server."
            )
        if mass < LEAST_MASS:
            raise ModelError(
                f"'{service.model}' must begin its answer with one of the letters that it is asked for; {mass:.2f} of "
                f"its probability is on the labels, and must be {LEAST_MASS} or more. Take another --api route, or "
                "another model."
            )
        if missing:
            rest = max(1e-9, 1 - sum(exp(value) for _, value in tops)) / len(missing)
            least = min(log(rest), min(value for _, value in tops))
            found = [least if value == -inf else value for value in found]
        values = np.array(found)
        return Reading(values - np.logaddexp.reduce(values), min(1.0, mass))


def own_letters(request: ScoreRequest) -> dict[str, str] | None:
    """Return the letter or digit that each continuation is, as "A" of "(A)"; None where they are something else."""
    bare = ["".join(c for c in text if c.isalnum()) for text in request.continuations]
    are_letters = all(len(text) == 1 and text.isascii() for text in bare) and len(set(bare)) == len(bare)
    return dict(zip(request.continuations, bare, strict=True)) if are_letters else None


def lettered(request: ScoreRequest) -> dict[str, str]:
    """Return the letter of each continuation, bare."""
    shared = [[s.role, s.text] for s in request.prompt.segments if s.role != "query"]
    texts = [text.strip() for text in request.continuations]
    order = generator(0, "letters", repr(shared), *texts).permutation(len(texts))
    by_place = {int(place): ascii_uppercase[i] for i, place in enumerate(order)}
    return {text: by_place[i] for i, text in enumerate(request.continuations)}
