"""Settings chosen along the stream: many configurations learn side by side, and the worse half is dropped.

After 8, 16, 32, … examples the half with more bits so far is dropped. What the race predicts is, for each example, the
prediction of the configuration that has had the fewest bits before it: so the choice of settings is part of what is
measured, and nothing of the future is in it.

Source: Jamieson and Talwalkar (2016), successive halving, https://arxiv.org/abs/1502.07943; prequential choice of
settings as in Bornschein et al. (2025), section 3, https://arxiv.org/abs/2512.19879. Differs: they run every setting to
the end and choose by accuracy; bits tell more after few examples, and are bounded by the share of the uniform.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from kshot.core.lessons import DivergedError
from kshot.core.types import Prediction, Query, Task
from kshot.learners.trained import TunedLearner
from kshot.measures.probabilities import code_length_bits
from kshot.recipes.recipe import Recipe

FIRST_RUNG = 8


@dataclass
class _Runner:
    """A configuration in the race."""

    learner: TunedLearner
    predictions: list[Prediction] = field(default_factory=list)
    bits: float = 0.0
    reason: str | None = None  # why it was dropped


class RacedLearner:
    """Runs the configurations of a recipe side by side.

    Args:
        task: What is learnt.
        learners: One for each configuration; ties go to the first.
    """

    def __init__(self, task: Task, learners: Sequence[TunedLearner]):
        self._task = task
        self._runners = [_Runner(learner) for learner in learners]
        self._n = 0  # examples predicted

    @property
    def _alive(self) -> list[_Runner]:
        return [r for r in self._runners if r.reason is None]

    @property
    def n_alive(self) -> int:
        """How many configurations are still in the race."""
        return len(self._alive)

    @property
    def winner(self) -> Recipe:
        """The configuration with the fewest bits of those that were not dropped."""
        return self._leader.learner.recipe

    @property
    def winner_predictions(self) -> list[Prediction]:
        """What the winner predicted over the stream."""
        return self._leader.predictions

    @property
    def _leader(self) -> _Runner:
        return min(self._alive, key=lambda r: r.bits)

    def configurations(self) -> list[dict[str, Any]]:
        """Return a row for each configuration: name, examples it predicted, its bits per example, and its status."""
        rows, leader = [], self._leader if self._alive else None
        for r in self._runners:
            n = len(r.predictions)
            status = r.reason or ("chosen" if r is leader else "not chosen")
            rows.append(
                {
                    "recipe": r.learner.recipe.name,
                    "n": n,
                    "bits_per_example": r.bits / n if n else None,
                    "status": status,
                }
            )
        return rows

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict the next examples of a stream, each from those before it; `finish` ends the stream.

        Raises:
            DivergedError: No configuration is left.
        """
        tell = progress or (lambda n: None)
        predictions = []
        try:
            for query in queries:
                for runner in self._alive:
                    self._advance(runner, query, tell)
                leader = self._leader  # by the bits before this example
                latest = [r.predictions[-1] for r in self._alive]
                shown = leader.predictions[-1]
                seconds = sum(p.fit_seconds + p.seconds for p in latest) - shown.seconds
                tokens = sum(p.fit_tokens + p.tokens for p in latest) - shown.tokens
                predictions.append(replace(shown, fit_seconds=seconds, fit_tokens=tokens))
                for runner in self._alive:
                    runner.bits += code_length_bits(self._task, query.example.output, runner.predictions[-1])
                self._n += 1
                if self._n >= FIRST_RUNG and self._n & (self._n - 1) == 0:
                    self._halve(self._n)
                tell(1)
        finally:
            for runner in self._alive:
                runner.learner.save_state()
        return predictions

    def finish(self, *, forget: bool = False) -> None:
        """Give up the weights of all configurations but the winner's, or of all."""
        for runner in self._alive:
            if forget or runner is not self._leader:
                runner.learner.forget()

    def _advance(self, runner: _Runner, query: Query, tell: Callable[[int], None]) -> None:
        try:
            prediction = runner.learner.predict(query, progress=lambda _: tell(0))
        except DivergedError as error:
            runner.reason = f"diverged after {len(query.past)} examples: {error}"
            runner.learner.forget()
            if not self._alive:
                raise DivergedError(f"every configuration diverged; the last: {error}. Use a smaller lr.") from error
            return
        runner.predictions.append(prediction)

    def _halve(self, n: int) -> None:
        ranked = sorted(self._alive, key=lambda r: r.bits)
        best = ranked[0].bits / n
        for runner in ranked[ceil(len(ranked) / 2) :]:
            runner.reason = f"dropped after {n} examples: {runner.bits / n:.2f} bits, the best {best:.2f}"
            runner.learner.forget()
