"""Log-probabilities as other software takes them: a prompt is one string, which the model's own pass reads.

No packing, no segments: the prompt is tokenised as a whole, run by transformers' own code, and each answer after a copy
of what it remembers. So an export is read as its users will read it, and not by the engine that has measured it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from kshot.core.types import FloatArray
from kshot.engine.session import Session
from kshot.models.products import fast_products

_MEMORIES = ("cache", "past_key_values")  # as transformers calls it from 5.24 on, and before


class WholeText:
    """Reads prompts with a causal language model of transformers, or of peft.

    Args:
        model: Such a model in eval mode.
        tokenizer: Its tokenizer.
        using: What is entered while it runs, where others use the model too.
    """

    def __init__(self, model: Any, tokenizer: Any, using: Callable[[], AbstractContextManager[None]] = nullcontext):
        self._model, self._tokenizer, self._using = model, tokenizer, using

    @classmethod
    def of(cls, session: Session) -> "WholeText":
        """Return a reader with the weights of a session."""
        return cls(session.backbone.model, session.backbone.tokenizer, session.active)

    @torch.inference_mode()
    def log_probs(self, prompt: str, answers: Sequence[str], *, spells_first_token: bool = False) -> FloatArray:
        """Return the log-probability in nats of each answer after a prompt, `[n_answers]`.

        Args:
            prompt: As one string.
            answers: What follows it; each is tokenised by itself, as a server's tokens follow a prompt.
            spells_first_token: Whether the prompt's text begins with the model's first token, as templates write it.
        """
        first = self._tokenizer.encode(prompt, add_special_tokens=not spells_first_token)
        with self._using(), fast_products():
            read = self._model(input_ids=self._tensor(first), use_cache=True, logits_to_keep=1)
            memory = next(name for name in _MEMORIES if name in read)
            following, found = read.logits[0, -1:], []  # [1, n_words]
            for answer in answers:
                ids = self._tokenizer.encode(answer, add_special_tokens=False)
                logits = following
                if ids[1:]:
                    own = {memory: deepcopy(read[memory])}
                    more = self._model(input_ids=self._tensor(ids[:-1]), use_cache=True, **own)
                    logits = torch.cat([following, more.logits[0]])  # [n_ids, n_words]
                said = logits.float().log_softmax(-1)
                found.append(sum(float(said[i, token]) for i, token in enumerate(ids)))
        return np.array(found)

    def _tensor(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor([ids], device=self._model.device)
