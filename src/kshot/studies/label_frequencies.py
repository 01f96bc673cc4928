"""Labels that have nothing to do with the inputs: all there is to learn is how often each one comes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.studies.task_family import Study

_WORDS = ("river", "lamp", "cloud", "stone", "paper", "garden", "window", "bridge", "candle", "forest")


@dataclass(frozen=True)
class LabelFrequencies(Study):
    """Draw the frequencies of the labels from the uniform distribution over all frequencies, and labels from these.

    Inputs are words drawn at random. The best answer is then the rule of succession, p(i) = (n_i + 1) / (n + c) with c
    labels: `majority` says just that, and whatever finds more in the inputs finds what is not there.

    Attributes:
        labels: How many labels.

    Source: Laplace (1774), https://doi.org/10.1214/ss/1177013621 (translation).
    """

    labels: int = setting(3, least=2, most=1000)

    def sample(self, n: int, *, rng: np.random.Generator) -> Task:
        """Return a task; see `kshot.studies.task_family.Study`."""
        names = tuple(f"label {chr(ord('A') + i)}" for i in range(self.labels))
        shares = rng.dirichlet(np.ones(self.labels))
        drawn = rng.choice(self.labels, size=n, p=shares)
        while len(set(drawn.tolist())) < 2:  # a task has two outputs or more
            shares = rng.dirichlet(np.ones(self.labels))
            drawn = rng.choice(self.labels, size=n, p=shares)
        texts = [f"{' '.join(rng.choice(_WORDS, size=4))} {i}" for i in range(n)]
        train = tuple(
            Example(text, names[at], f"row-{i}") for i, (text, at) in enumerate(zip(texts, drawn, strict=True))
        )
        return Task("label-frequencies", "classification", train, labels=names)

    def best(self, task: Task, past: Sequence[Example], question: Question) -> FloatArray:
        """Return the rule of succession; see `kshot.studies.task_family.Study`."""
        counts = Counter(e.output for e in past)
        weights = np.array([counts[label] + 1.0 for label in task.labels])
        return weights / weights.sum()
