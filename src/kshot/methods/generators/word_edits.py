"""Copies of examples with a few of their words deleted or swapped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.contracts import Generator, Made
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class WordEdits(Generator):
    """Make copies of each example in which some words of the input are deleted, and as many pairs swapped.

    Of an input with n words, `share` x n words (rounded, 1 at least) are deleted and then as many pairs of words change
    places. The output stays. A copy that is not new, or that would be empty, is rejected. No model is asked.

    Attributes:
        copies: Of each example.
        share: Of the words of an input.

    Source: Wei and Zou (2019), EDA, https://arxiv.org/abs/1901.11196.
    Differs: deletion and swap in one copy; no synonyms, which need a thesaurus.
    """

    copies: int = setting(1, least=1, most=100)
    share: float = setting(0.1, least=0, most=1)

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return the copies; see `kshot.methods.contracts.Generator`."""
        known = {seed.input for seed in seeds}
        made: list[Example] = []
        rejected: list[tuple[str, str]] = []
        for number in range(self.copies):
            for seed in seeds:
                text = self._edited(seed.input, rng)
                if not text or text in known:
                    rejected.append((text, "it is empty" if not text else "it is not new"))
                    continue
                known.add(text)
                meta = {**seed.meta, "made": "word-edits"}
                made.append(replace(seed, input=text, id=f"{seed.id}~{number + 1}", references=(), meta=meta))
        return Made(tuple(made), tuple(rejected))

    def _edited(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        n = max(1, round(self.share * len(words)))
        gone = set(rng.permutation(len(words))[:n].tolist())
        words = [word for i, word in enumerate(words) if i not in gone]
        for _ in range(n if len(words) > 1 else 0):
            a, b = rng.choice(len(words), size=2, replace=False)
            words[a], words[b] = words[b], words[a]
        return " ".join(words)
