"""Measure recipes over one stream: predictions from the store or computed, what was fitted beside them, sample rows."""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kshot import __version__
from kshot.asking import Asker
from kshot.core.errors import StorageError, UserError
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import digest
from kshot.core.training import DivergedError
from kshot.core.types import Prediction, Task
from kshot.evaluation.calibration import calibrated
from kshot.evaluation.prequential import Stream, sample_row
from kshot.learning.make import lacking, make_learner, tuned_learner
from kshot.learning.tuned import Keep, Source, as_prediction
from kshot.recipe import Recipe
from kshot.runs.store import SqliteStore


class BudgetSpentError(Exception):
    """The time is over; raised between packs, when what was scored is stored."""


@dataclass(frozen=True)
class _Aside(Silence):
    """Work for a selector: it counts as no prediction, but the time is looked at."""

    tell: Callable[[int], None]

    def advance(self, n: int) -> None:
        """Tell that the run goes on."""
        self.tell(0)


@dataclass(frozen=True)
class Measuring:
    """What all recipes of a run are measured with; keeps what was fitted beside the predictions."""

    task: Task
    asker: Asker
    judge: Asker | None
    source: Source | None
    stream: Stream
    store: SqliteStore
    folder: Path
    seed: int
    progress: Progress
    deadline: float
    temperatures: dict[str, float] = field(default_factory=dict)
    settled: dict[str, Recipe] = field(default_factory=dict)  # what has won in the race of a recipe's settings
    configurations: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    selections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # what selectors have noted
    failures: dict[str, str] = field(default_factory=dict)  # where a recipe failed, as Python tells it

    def rows(self, recipe: Recipe) -> "list[dict[str, Any]] | str":
        """Return a recipe's sample rows over the stream, or why there are none: its status on the leaderboard."""
        if not recipe.suits(self.task):
            return "not-applicable"
        if recipe.missing_package:
            return "not-installed"
        if lacking(recipe, self.task, self.asker, self.judge):
            return "not-supported"
        try:
            predictions = self._tuned(recipe) if recipe.tuner else self._predictions(recipe)
        except BudgetSpentError:
            return "out-of-budget"
        except DivergedError as error:
            self.progress.say(f"{recipe.name}: {error}")
            return "diverged"
        except (StorageError, UserError):
            raise
        except Exception as error:  # a model's or a selector's own mistake: the other recipes go on
            self.failures[recipe.name] = traceback.format_exc()
            self.progress.say(f"{recipe.name} failed: {type(error).__name__}: {error}; the others go on")
            return "failed"
        examples = self.stream.examples
        self.temperatures.setdefault(recipe.name, 1.0)
        if recipe.calibration == "temperature" and not self.task.is_open:
            predictions, temperature = calibrated(predictions, examples)
            if not recipe.tuner:
                self.temperatures[recipe.name] = temperature
        self._say(recipe, predictions)
        pairs = enumerate(zip(examples, predictions, strict=True))
        return [sample_row(self.task, recipe.name, i, *pair) for i, pair in pairs]

    @property
    def _shared(self) -> tuple[object, ...]:
        """What predictions depend on beside the recipe."""
        judge = self.judge.model.fingerprint if self.judge else None
        return judge, self.task.fingerprint, self.stream.fingerprint, self.seed

    @property
    def keep(self) -> Keep:
        """Where training survives an interruption."""
        asked = self.asker.model.fingerprint, dict(self.asker.composer.record)
        return Keep(self.store, self.folder / "training", digest(__version__, asked, *self._shared))

    def _predictions(self, recipe: Recipe) -> Sequence[Prediction]:
        """Return the predictions over the stream, from the store if they are there."""
        model = self.asker.model
        asked = (model.fingerprint, dict(self.asker.composer.record)) if recipe.needs else None
        key = digest(__version__, recipe.fingerprint, asked, *self._shared)
        n = len(self.stream.examples)
        self.progress.begin(recipe.name, n)
        stored = self.store.get_predictions(key)
        if stored:
            model.work.reused += n if recipe.needs else 0
            self.progress.advance(n)
            self.selections[recipe.name] = self.store.get_predictions(digest(key, "selections"))
            return [as_prediction(row) for row in stored]
        notes = self.selections[recipe.name] = []
        judge = replace(self._judge(), notes=lambda values: notes.append(dict(values)))
        learner = make_learner(recipe, self.task, self.asker, seed=self.seed, judge=judge)
        self._advance(0)
        predictions = learner.predict(self.stream.queries(), progress=self._advance)
        self.store.put_predictions(digest(key, "selections"), notes)
        self.store.put_predictions(key, [asdict(p) for p in predictions])
        return predictions

    def _judge(self) -> Asker:
        return replace(self.judge or self.asker, progress=_Aside(self._advance))

    def _tuned(self, recipe: Recipe) -> Sequence[Prediction]:
        """Return the predictions of a recipe that trains: its settings race along the stream."""
        self.progress.begin(recipe.name, len(self.stream.examples))
        how: Any = {"seed": self.seed, "judge": self._judge(), "keep": self.keep, "source": self.source}
        race = tuned_learner(recipe, self.asker, **how)
        try:
            predictions = race.predict(self.stream.queries(), progress=self._advance)
        finally:
            self.configurations[recipe.name] = race.configurations()
        self.settled[recipe.name] = race.winner
        if recipe.calibration == "temperature" and not self.task.is_open:
            # The model that is handed over is the winner, not whoever led before
            self.temperatures[recipe.name] = calibrated(race.winner_predictions, self.stream.examples)[1]
        if recipe.alternatives:
            self.progress.say(f"{recipe.name}: of {len(recipe.variants)} settings {race.winner.name} is chosen")
        return predictions

    def _say(self, recipe: Recipe, predictions: Sequence[Prediction]) -> None:
        """Tell what happened to prompts and answers."""
        n, n_dropped = len(predictions), sum(p.dropped > 0 for p in predictions)
        if n_dropped:
            self.progress.say(
                f"{recipe.name}: in {n_dropped} of {n} prompts demonstrations were left out, whole, to fit the "
                f"model's {self.asker.model.max_tokens} tokens (`dropped` in samples.jsonl)"
            )
        n_written, n_cut = sum(p.answer is not None for p in predictions), sum(p.cut_off for p in predictions)
        if n_cut:
            self.progress.say(
                f"{recipe.name}: {n_cut} of {n_written} generated answers did not end within "
                f"{self.asker.answer_tokens} tokens and were cut (`cut_off` in samples.jsonl)"
            )

    def _advance(self, n: int) -> None:
        self.progress.advance(n)
        if time.monotonic() > self.deadline:
            raise BudgetSpentError
