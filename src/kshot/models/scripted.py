"""A language model that answers from a table: for tests and dry trials, without torch.

Where the table is silent it acts like a reader: it trusts the demonstration whose text shares most words with the
query. So its scores depend on which demonstrations are shown, as a real model's do, and can be checked by hand.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.errors import UserError, in_short
from kshot.core.given_files import text_of
from kshot.core.json_text import from_json
from kshot.core.ledger import Cost, Ledger
from kshot.core.models import Capability, Store
from kshot.core.seeding import digest
from kshot.core.types import FloatArray, GenerateRequest, Generation, Prompt, ScoreRequest


class ScriptedModel:
    """Answers from a table of text that occurs in the query -> answer.

    Args:
        table: Where a key occurs in the query's text, its value is the answer.
        confidence: Probability of the answer that it believes in; the rest is shared evenly.
        max_tokens: Its context, in words and marks.
    """

    capabilities = frozenset({Capability.SCORE, Capability.GENERATE})
    chat = None
    in_messages = False
    control_tokens = ()
    is_remote = False
    about: Mapping[str, Any] = {}

    def __init__(
        self,
        table: Mapping[str, str] | None = None,
        *,
        confidence: float = 0.9,
        max_tokens: int = 4096,
        name: str = "scripted",
    ):
        self.name = name
        self.origin: Mapping[str, Any] = {}
        self.remark = None
        self._table = dict(table or {})
        self._confidence = confidence
        self.max_tokens = max_tokens
        self._store: Store | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies the table."""
        return digest("scripted", self._table, self._confidence)

    weights_id = old_fingerprint = fingerprint

    def count_tokens(self, text: str) -> int:
        """Return the number of words and marks."""
        return len(re.findall(r"\w+|[^\w\s]|\n", text))

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return 0: no network is run."""
        return 0

    def with_store(self, store: Store | None) -> "ScriptedModel":
        """Return the same model keeping scores in `store`."""
        other = ScriptedModel(self._table, confidence=self._confidence, max_tokens=self.max_tokens, name=self.name)
        other._store = store
        return other

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return log-probabilities in nats `[n_continuations]` per request."""
        keys = [digest(self.fingerprint, r.prompt.text, r.continuations) for r in requests]
        known = self._store.get(keys) if self._store else {}
        fresh = {k: (self._answer(r), 0.0) for k, r in zip(keys, requests, strict=True) if k not in known}
        if self._store:
            self._store.put([(k, *v) for k, v in fresh.items()])
        return self._told(keys, known, fresh, progress, ledger)

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Return what it believes in for each request, or "unknown"."""
        keys = [digest(self.fingerprint, r.prompt.text, r.max_tokens, r.stop, r.allowed) for r in requests]
        known = self._store.get_texts(keys) if self._store else {}
        fresh = {k: (self._text(r), 0.0) for k, r in zip(keys, requests, strict=True) if k not in known}
        if self._store:
            self._store.put_texts([(k, *v) for k, v in fresh.items()])
        return self._told(keys, known, fresh, progress, ledger)

    def _told(
        self,
        keys: Sequence[str],
        known: Any,
        fresh: Any,
        progress: Callable[[int], None] | None,
        ledger: Ledger | None,
    ) -> list[Any]:
        """Count the requests, report them, and return a result for each key."""
        if ledger:
            ledger.add(Cost(scored=len(fresh), reused=len(known)))
        if progress:
            progress(len(keys))
        return [{**known, **fresh}[k][0] for k in keys]

    def _text(self, request: GenerateRequest) -> Generation:
        believed = self._believed(request.prompt) or "unknown"
        allowed = [text.strip() for text in request.allowed]
        if allowed and believed not in allowed:
            believed = allowed[0]
        words = believed.split(" ")
        return Generation(" ".join(words[: request.max_tokens]), len(words) <= request.max_tokens)

    def _answer(self, request: ScoreRequest) -> FloatArray:
        believed = self._believed(request.prompt)
        names = [c.strip() for c in request.continuations]
        if len(names) == 1:  # an open task: the known answer against all others
            return np.log([self._confidence if believed == names[0] else 1 - self._confidence])
        if believed not in names:
            return np.full(len(names), -np.log(len(names)))
        rest = (1 - self._confidence) / max(1, len(names) - 1)
        return np.log([self._confidence if n == believed else rest for n in names])

    def _believed(self, prompt: Prompt) -> str | None:
        query = prompt.segments[-1].text
        for key, answer in self._table.items():
            if key in query:
                return answer
        words = set(query.lower().split())
        best, overlap = None, -1
        for shown, answer in zip(prompt.segments, prompt.segments[1:], strict=False):
            if answer.role == "answer" and len(words & set(shown.text.lower().split())) >= overlap:
                best, overlap = answer.text.strip(), len(words & set(shown.text.lower().split()))
        return best


def scripted_from(name: str) -> ScriptedModel:
    """Make the model of `scripted`, or of `scripted:FILE` with a JSON object as its table.

    Raises:
        UserError: The file is missing or holds something else.
    """
    path = name.removeprefix("scripted").removeprefix(":")
    if not path:
        return ScriptedModel()
    try:
        table = from_json(text_of(Path(path)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"scripted:FILE must name a JSON file with an object; {path}: {in_short(error)}. Correct it."
        ) from error
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise UserError(f"scripted:FILE must hold an object of texts; {path} holds something else.")
    return ScriptedModel(table, name=name)
