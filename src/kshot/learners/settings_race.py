"""Settings chosen along the stream: many configurations learn side by side, and the worse half is dropped.

After 8, 16, 32, … predictions the half with more bits so far is dropped. What the race predicts is, for each example,
the prediction of the configuration that has had the fewest bits before it: so the choice of settings is part of what is
measured, and nothing of the future is in it.

Source: Jamieson and Talwalkar (2016), successive halving, https://arxiv.org/abs/1502.07943; prequential choice of
settings as in Bornschein et al. (2025), section 3, https://arxiv.org/abs/2512.19879. Differs: they run every setting to
the end and choose by accuracy; bits tell more after few examples, and are bounded by the share of the uniform.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from kshot.core.ledger import Ledger
from kshot.core.lessons import DivergedError
from kshot.core.types import Example, Prediction, Query
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.measures.probabilities import code_length_bits
from kshot.recipes.recipe import Recipe

FIRST_RUNG = 8


@dataclass
class _Runner:
    """A configuration in the race."""

    learner: Learner
    predictions: list[Prediction] = field(default_factory=list)
    bits: float = 0.0
    reason: str | None = None  # why it was dropped


class SettingsRace(Learner):
    """Runs the configurations of a recipe side by side.

    Args:
        recipe: With alternatives.
        setup: That of the run.
        learners: One for each alternative; ties go to the first.
    """

    follows = True

    def __init__(self, recipe: Recipe, setup: Setup, learners: Sequence[Learner]):
        self.recipe, self._setup = recipe, setup
        self._runners = [_Runner(learner) for learner in learners]
        self._n = 0  # predictions
        self._last_error: DivergedError | None = None

    @property
    def _alive(self) -> list[_Runner]:
        return [r for r in self._runners if r.reason is None]

    @property
    def n_alive(self) -> int:
        """How many configurations are still in the race."""
        return len(self._alive)

    @property
    def settled(self) -> Recipe:
        """The configuration with the fewest bits of those that were not dropped."""
        return self._leader.learner.recipe

    def last(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Return what the winner predicted over the stream."""
        return self._leader.predictions

    @property
    def _leader(self) -> _Runner:
        return min(self._alive, key=lambda r: r.bits)

    def configurations(self) -> list[dict[str, Any]]:
        """Return a row for each configuration: name, predictions, their bits per example, and its status."""
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
            for block in self._blocks(queries):
                predictions += self._race(block, tell)
        finally:
            self.save_state()
        return predictions

    def _blocks(self, queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
        """Divide queries at the places where the worse half is dropped, or one by one where learners follow the stream.

        Those that follow it stay side by side: a run that is interrupted, or out of budget, has as much of each.
        """
        follows, start = any(r.learner.follows for r in self._runners), 0
        while start < len(queries):
            after = self._n  # predictions before this block
            rung = FIRST_RUNG if after < FIRST_RUNG else 1 << after.bit_length()
            stop = start + 1 if follows else min(len(queries), start + rung - after)
            yield queries[start:stop]
            start = stop

    def _race(self, block: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Let every configuration predict a block, and return for each query what the leader before it said."""
        for runner in self._alive:
            self._advance(runner, block, tell)
        if not self._alive:
            raise DivergedError(f"every configuration diverged; the last: {self._last_error}. Use a smaller lr.")
        found = []
        for i, query in enumerate(block, self._n):
            able = [r for r in self._runners if len(r.predictions) > i]
            leader = min(able, key=lambda r: r.bits)  # by the bits before this example
            shown = leader.predictions[i]
            latest = [r.predictions[i] for r in able]
            seconds = sum(p.fit_seconds + p.seconds for p in latest) - shown.seconds
            tokens = sum(p.fit_tokens + p.tokens for p in latest) - shown.tokens
            setting = leader.learner.recipe.name if len(self._runners) > 1 else ""
            found.append(replace(shown, fit_seconds=seconds, fit_tokens=tokens, setting=setting))
            for r in able:
                r.bits += code_length_bits(self._setup.task, query.example.output, r.predictions[i])
            tell(1)
        self._n += len(block)
        if self._n >= FIRST_RUNG and self._n & (self._n - 1) == 0:
            self._halve(self._n)
        return found

    def _advance(self, runner: _Runner, block: Sequence[Query], tell: Callable[[int], None]) -> None:
        """Let a configuration predict a block; where training diverges, what it said before that stays."""
        learner = runner.learner
        try:
            if learner.follows:
                runner.predictions += learner.predict(block, progress=lambda _: tell(0))
            else:
                runner.predictions += self._kept(learner, block, tell)
        except DivergedError as error:
            runner.reason = f"diverged after {len(runner.predictions)} predictions: {error}"
            self._last_error = error
            learner.forget()

    def _kept(self, learner: Learner, block: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        def ask() -> list[Prediction]:
            return learner.anew().predict(block, progress=lambda _: tell(0))

        kept, model = self._setup.kept, self._setup.model
        if kept is None:
            return ask()
        name = f"{learner.recipe.fingerprint} {self._n}-{self._n + len(block)}"
        ledger = model.ledger if model else Ledger()
        return kept.once(name, block, ledger, ask, asks_model=learner.recipe.asks_model)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Race along the examples, unless a race is over, and fit the winner on all of them."""
        if not self._n and len(self._runners) > 1:
            self.predict([Query(e, examples[:i]) for i, e in enumerate(examples)])
        return self._leader.learner.fit(examples)

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fit of one configuration takes: predictions here cost what all of them do."""
        seconds, tokens = self._leader.learner.last_fit(predictions, known, n_end)
        return seconds / max(1, self.n_alive), tokens / max(1, self.n_alive)

    def check(self, examples: Sequence[Example]) -> None:
        """Check the configurations."""
        for runner in self._runners:
            runner.learner.check(examples)

    def save_state(self) -> None:
        """Write the configurations' states."""
        for runner in self._alive:
            runner.learner.save_state()

    def finish(self, *, forget: bool = False) -> None:
        """Give up all configurations but the winner, or all."""
        for runner in self._alive:
            if forget or runner is not self._leader:
                runner.learner.forget()

    def forget(self) -> None:
        """Give up all configurations."""
        self.finish(forget=True)

    def _halve(self, n: int) -> None:
        ranked = sorted(self._alive, key=lambda r: r.bits)
        best = ranked[0].bits / n
        for runner in ranked[ceil(len(ranked) / 2) :]:
            runner.reason = f"dropped after {n} predictions: {runner.bits / n:.2f} bits, the best {best:.2f}"
            runner.learner.forget()
