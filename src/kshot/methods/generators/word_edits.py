"""Copies of examples with a few of their words deleted or swapped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.contracts import Generator, Made
from kshot.methods.generators.intake import NO_CHOICES, Intake, parted
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class WordEdits(Generator):
    """Make copies of each example in which some words of the input are deleted, and as many pairs swapped.

    Of an input with n words, `share` x n words (rounded, 1 at least) are deleted and then as many pairs of words change
    places. The output stays; of an input that lists its choices what stands before them is changed alone. A copy that
    is not new, that would be empty, or that a test row asks is rejected. No model is asked.

    Attributes:
        copies: Of each example.
        share: Of the words of an input.

    Source: Wei and Zou (2019), EDA, https://arxiv.org/abs/1901.11196.
    Differs: deletion and swap in one copy; no synonyms, which need a thesaurus.
    """

    n: int = setting(0, least=0, most=100_000)
    copies: int = setting(1, least=1, most=100)
    share: float = setting(0.1, least=0, most=1)

    def generate(self, seeds: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Made:
        """Return the copies; see `kshot.methods.contracts.Generator`."""
        intake = Intake("word-edits", seeds, model.task)
        for number in range(self._rounds(len(seeds))):
            for seed in seeds:
                if self.n and len(intake.taken) == self.n:
                    break
                if (part := parted(seed, model.task)) is None:
                    intake.reject(seed.input, NO_CHOICES)
                    continue
                stem, choices = part
                text = self._edited(stem, rng)
                text = text + choices if text else ""
                meta = {**seed.meta, "made": "word-edits"}
                draft = replace(seed, input=text, id=f"{seed.id}~{number + 1}", references=(), meta=meta)
                if fault := intake.fault(draft):
                    intake.reject(text, fault)
                else:
                    intake.add(draft)
        return intake.made

    def _rounds(self, n_seeds: int) -> int:
        """Return how often each example is copied; where `n` says how many, three times as often as it takes."""
        return 3 * -(-self.n // n_seeds) if self.n else self.copies

    def _edited(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        n = max(1, round(self.share * len(words)))
        gone = set(rng.permutation(len(words))[:n].tolist())
        words = [word for i, word in enumerate(words) if i not in gone]
        for _ in range(n if len(words) > 1 else 0):
            a, b = rng.choice(len(words), size=2, replace=False)
            words[a], words[b] = words[b], words[a]
        return " ".join(words)
