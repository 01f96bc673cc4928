"""A stand-in for a language model that runs nothing and counts what would have to be run."""

from collections.abc import Callable, Sequence

import numpy as np

from kshot.core.protocols import LanguageModel
from kshot.core.types import FloatArray, GenerateRequest, Generation, ScoreRequest, Work


class Counting:
    """Answer like no model at all, counting the forward tokens of what is asked.

    Args:
        model: Whose tokens are counted.
    """

    def __init__(self, model: LanguageModel):
        self.tokens = 0
        self.work = Work()
        self.name, self.fingerprint, self.origin = model.name, model.fingerprint, model.origin
        self.capabilities, self.max_tokens = model.capabilities, model.max_tokens
        self.remark, self.chat = model.remark, model.chat
        self.count_tokens, self.forward_tokens = model.count_tokens, model.forward_tokens

    def with_store(self, store: object) -> "Counting":
        """Return itself; nothing is stored."""
        return self

    def score(
        self, requests: Sequence[ScoreRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[FloatArray]:
        """Count, and return equal scores."""
        self.tokens += self.forward_tokens(requests)
        return [np.zeros(len(r.continuations)) for r in requests]

    def generate(
        self, requests: Sequence[GenerateRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Count prompts and the longest answers that may be given, and return empty ones."""
        self.tokens += self.forward_tokens([ScoreRequest(r.prompt, ("\n",)) for r in requests])
        self.tokens += sum(r.max_tokens for r in requests)
        return [Generation("", True)] * len(requests)
