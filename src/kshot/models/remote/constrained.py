"""Answers that are written and counted, where a service tells no probabilities: constrained if it can, else parsed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from kshot.core.api_settings import FIRST_SAMPLES
from kshot.core.errors import ModelError, RefusedError
from kshot.core.json_text import from_json
from kshot.core.seeding import digest
from kshot.core.types import ScoreRequest
from kshot.models.remote.chatting import CHAT, chat_body, choices_of, content_of, instructed
from kshot.models.remote.known import why_wrong
from kshot.models.remote.route import Reading, Service, Takes

PROBED = 4  # samples of a request whose answer is known
_UNSEEN = 0.5  # added to the count of each label: none has probability 0 because it was not drawn
_THOUGHT, _SAID = 2048, 256  # most tokens of an answer to a schema, which may be thought about, and without one
_HOW = "constrained how"  # in the memory of a service: which of `_WAYS` it takes
_WAYS = (("schema", "several"), ("schema",), ("several",), ())  # best first; "several" answers to a request


@dataclass(frozen=True)
class Constrained:
    """Draw answers at temperature 1, and count them.

    A label that was drawn k times of n has the probability (k + 1/2) / (n + 1/2 for each label). Answers that are none
    of the labels are not counted; the share of those that are is the mass.

    Attributes:
        samples: Answers to a request.
    """

    samples: int = FIRST_SAMPLES
    name: str = "constrained"
    trust: Literal["exact", "labels", "sampled"] = "sampled"
    in_messages: bool = True
    most: int | None = None

    async def probe(self, service: Service) -> str | None:
        """Return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(replace(self, samples=min(self.samples, PROBED)), service)

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before."""
        at_once = "several" in _WAYS[service.memory.get(_HOW, 0)]
        return Takes() if at_once else Takes(self.samples, self.samples)

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation among all of them, and the share of answers that were one.

        Raises:
            ModelError: No answer is one of the continuations.
        """
        names = [text.strip() for text in request.continuations]
        written = list[str | None]()
        while len(written) < self.samples:
            written += await self._drawn(service, request, names, self.samples - len(written), len(written))
        counts = Counter(label for text in written[: self.samples] if (label := parsed(text, names)))
        n = sum(counts.values())
        if n == 0:
            raise ModelError(
                f"'{service.model}' must answer with one of the labels; none of its {self.samples} answers is, such as "
                f"{str(written[0])[:60]!r}. Say in the task's instruction what the answers are, or take another model."
            )
        shares = np.array([counts[name] + _UNSEEN for name in names]) / (n + _UNSEEN * len(names))
        return Reading(np.log(shares), n / self.samples)

    async def _drawn(
        self, service: Service, request: ScoreRequest, names: Sequence[str], n: int, seed: int
    ) -> list[str | None]:
        """Return answers, as many of `n` as the service gives to one request.

        Of the ways in which it can be asked, by a schema and for several answers at once, the best that it does not
        refuse is found out once.
        """
        shown = "\n".join(names)
        messages = instructed(request, f"Answer with one of these alone, as it is written here:\n{shown}")
        first = int(digest(messages)[:7], 16)
        while True:
            at = service.memory.setdefault(_HOW, 0)
            way = _WAYS[at]
            body = chat_body(service, messages, max_tokens=_THOUGHT if "schema" in way else _SAID)
            body |= {"seed": first + seed} | ({"n": n} if "several" in way else {})
            if "schema" in way:
                body["response_format"] = _schema(names)
            try:
                choices = choices_of(await service.post(CHAT, body))
            except RefusedError:
                if at + 1 == len(_WAYS):
                    raise
                service.memory[_HOW] = max(at + 1, service.memory[_HOW])  # other requests are under way
                continue
            if not choices:
                raise ModelError(f"'{service.model}' must answer with a choice; it answers without. Try again later.")
            return [content_of(choice) for choice in choices]


def _schema(names: Sequence[str]) -> dict[str, Any]:
    answer = {"type": "object", "properties": {"answer": {"type": "string", "enum": list(names)}}}
    schema = answer | {"required": ["answer"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def parsed(text: str | None, names: Sequence[str]) -> str | None:
    """Return which name an answer is, in whatever case and with marks around it; None if it is none of them."""
    if text is None:
        return None
    try:
        said = from_json(text)
        text = said["answer"] if isinstance(said, dict) and isinstance(said.get("answer"), str) else text
    except ValueError:
        pass
    by_name = {_bare(name): name for name in names} if len({_bare(n) for n in names}) == len(names) else {}
    return text.strip() if text.strip() in names else by_name.get(_bare(text.strip().split("\n")[-1]))


def _bare(text: str) -> str:
    return text.strip().strip(".\"'*`:").strip().casefold()
