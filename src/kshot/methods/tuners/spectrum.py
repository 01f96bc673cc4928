"""Spectrum tuning: learn the distribution of outputs, from sequences of samples that could come in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.core.errors import SettingError
from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.types import Example
from kshot.methods.contracts import Tuner
from kshot.methods.processes import KINDS, make_process
from kshot.methods.tuners.drawing import TARGETS, draw

LOSSES = {"outputs": "told", "last": "last", "first": "first", "all": "text"}


@dataclass(frozen=True)
class Spectrum(Tuner):
    """Learn every output of sequences of samples: the first by what is told of the process, others by those before.

    A sequence has samples of one process, drawn without replacement from the examples so far, or made up: urns, coins,
    ranges of numbers, people with opinions (`kshot.methods.processes`), each with its own description. Its length is
    drawn: half the time 1 + a Poisson number around k/2, else 1 + a geometric one of this mean, 2 at least and k + 1 at
    most.

    Attributes:
        k: The most samples before the last one of a sequence, and demonstrations in the prompt of a query.
        steps: Steps of training for each new example.
        batch: Sequences in a step.
        target: What a sequence of examples ends with: "any-seen" is any example so far, "current" the new one.
        loss: "outputs" learns every output with its end, but not the first of several where there is no description;
            "last" learns the last output alone, "first" the first one alone, "all" every token, inputs too.
        described: How often the description, here the task's instruction and notes, is said.
        made: How often a sequence is made up.
        kinds: Of what is made up, joined by +.

    Source: Sorensen et al. (2025), Spectrum Tuning, https://arxiv.org/abs/2510.06084.
    Differs: along a stream, on a user's task and few made-up processes instead of a large collection of data; adapters
    and rates of the other tuners; lengths by our own mixture.
    """

    k: int = setting(5, least=1, most=1000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    steps: int = setting(1, least=1, most=10_000)  # pyright: ignore[reportIncompatibleMethodOverride] - here it is a setting
    batch: int = setting(2, least=1, most=1000)
    target: str = setting("any-seen", choices=TARGETS)
    loss: str = setting("outputs", choices=tuple(LOSSES))
    described: float = setting(0.8, least=0.0, most=1.0)
    made: float = setting(0.0, least=0.0, most=1.0)
    kinds: str = "+".join(KINDS)

    def __post_init__(self):
        super().__post_init__()
        if odd := [kind for kind in self.kinds.split("+") if kind not in KINDS]:
            raise SettingError(f"kinds must be some of {', '.join(KINDS)}, joined by +; got '{odd[0]}'.")

    @property
    def makes(self) -> bool:
        """Whether some sequences are made up."""
        return self.made > 0

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return a lesson for each sequence of one step; see `kshot.methods.contracts.Tuner`."""
        return [self._made(rng) if rng.random() < self.made else self._drawn(seen, rng) for _ in range(self.batch)]

    def _drawn(self, seen: Sequence[Example], rng: np.random.Generator) -> Lesson:
        n, instruction = self._n_before(rng), None if rng.random() < self.described else ""
        target, before = draw(seen, n, target=self.target, evenly=False, rng=rng)
        return Lesson(before, target, LOSSES[self.loss], instruction=instruction)

    def _made(self, rng: np.random.Generator) -> Lesson:
        kinds = self.kinds.split("+")
        process = make_process(kinds[int(rng.integers(len(kinds)))], rng=rng)
        n, is_described = self._n_before(rng), rng.random() < self.described
        *before, target = process.sample(n + 1, rng=rng)
        said = process.description if is_described else ""
        return Lesson(tuple(before), target, LOSSES[self.loss], instruction=said, is_apart=True)

    def _n_before(self, rng: np.random.Generator) -> int:
        """Return how many samples stand before the last one of a sequence: 1 at least."""
        mean = self.k / 2
        n = rng.poisson(mean) if rng.random() < 0.5 else rng.geometric(1 / (1 + mean)) - 1
        return min(max(1, int(n)), self.k)
