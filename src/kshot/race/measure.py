"""Measure recipes over one stream, a part at a time: predictions from the store or computed, and their sample rows."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.duration import in_words
from kshot.core.errors import StorageError, UserError
from kshot.core.ledger import BudgetSpentError, Cost, Ledger
from kshot.core.lessons import DivergedError
from kshot.core.progress import Aside, Progress
from kshot.core.schedule import refit_point
from kshot.core.seeding import digest
from kshot.core.types import Prediction, Task
from kshot.core.version import __version__
from kshot.learners.build import lacking, make_learner, tuned_learner
from kshot.learners.kept import Keep, as_prediction
from kshot.learners.settings_race import RacedLearner
from kshot.learners.trained import Source
from kshot.measures.calibration import calibrated, with_temperature
from kshot.measures.samples import sample_row
from kshot.measures.variance import Spread, components
from kshot.race.entrant import Entrant
from kshot.race.second_look import N_DRAWS, other_draws, second_look
from kshot.race.stream import Stream
from kshot.recipes.recipe import Recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel


@dataclass
class Measuring:
    """What all recipes of a run are measured with.

    Attributes:
        ledger: Of the run, with its budget; those of `asker` and `judge` are parts of it. Its reserve is what the last
            fit of any recipe may take.
    """

    task: Task
    asker: TaskModel
    judge: TaskModel | None
    source: Source | None
    stream: Stream
    store: SqliteStore
    folder: Path
    seed: int
    progress: Progress
    ledger: Ledger

    def enter(self, recipe: Recipe) -> Entrant:
        """Return a recipe before its first prediction, or with the reason why there will be none."""
        if not recipe.suits(self.task):
            return Entrant(recipe, "not-applicable")
        if recipe.missing_package:
            return Entrant(recipe, "not-installed")
        if lacking(recipe, self.task, self.asker, self.judge):
            return Entrant(recipe, "not-supported")
        return Entrant(recipe)

    def advance(self, entrant: Entrant, stop: int) -> None:
        """Predict the stream from where the entrant stands up to `stop`; where that fails, it is out of the race."""
        recipe, start = entrant.recipe, len(entrant.predictions)
        self.progress.begin(recipe.name, stop - start)
        with self._others_go_on(entrant):
            try:
                part = self._tuned(entrant, start, stop) if recipe.tuner else self._prompted(entrant, start, stop)
            except BudgetSpentError:
                n = len(entrant.rows)
                entrant.stop(*(("stopped", f"the budget was spent after {n} examples") if n else ("out-of-budget",)))
                return
            entrant.predictions += part
            self._sample(entrant)

    @contextmanager
    def _others_go_on(self, entrant: Entrant) -> Iterator[None]:
        """Take a recipe out of the race where a model or a selector fails or diverges, and say so."""
        name = entrant.recipe.name
        try:
            yield
        except DivergedError as error:
            self.progress.say(f"{name}: {error}")
            entrant.stop("diverged", str(error))
        except (StorageError, UserError):
            raise
        except Exception as error:
            entrant.failure = traceback.format_exc()
            self.progress.say(f"{name} failed: {type(error).__name__}: {error}; the others go on")
            entrant.stop("failed", f"{type(error).__name__}: {error}")

    def _sample(self, entrant: Entrant) -> None:
        """Make the sample rows, calibrated each on what was before it."""
        predictions, examples = entrant.predictions, self.stream.examples[: len(entrant.predictions)]
        if entrant.recipe.calibration == "temperature" and not self.task.is_open:
            predictions, entrant.temperature = calibrated(predictions, examples)
            if isinstance(entrant.learner, RacedLearner):  # what is handed over is the winner, not whoever led before
                entrant.temperature = calibrated(entrant.learner.winner_predictions, examples)[1]
        pairs = enumerate(zip(examples, predictions, strict=True))
        entrant.rows = [sample_row(self.task, entrant.recipe.name, i, *pair) for i, pair in pairs]

    def finish(self, entrant: Entrant) -> None:
        """Tell what happened to the prompts and answers of a recipe that has come to the end."""
        predictions = entrant.predictions
        recipe, n, n_dropped = entrant.recipe, len(predictions), sum(p.dropped > 0 for p in predictions)
        entrant.stop("done")
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
        if recipe.alternatives and entrant.settled:
            self.progress.say(f"{recipe.name}: of {len(recipe.variants)} settings {entrant.settled.name} is chosen")

    def look_again(self, entrant: Entrant) -> None:
        """Ask a recipe as it will be handed over, where that is possible and the budget allows."""
        recipe, examples = entrant.recipe, self.stream.examples
        if any(p.fit_tokens for p in entrant.predictions):
            return
        queries, predictions = [], []
        with self._others_go_on(entrant), suppress(BudgetSpentError):
            found = second_look(recipe, self.asker, examples, self.stream.rest, seed=self.seed)
            if found:
                learner, queries = found
                self.progress.begin(f"{recipe.name}, a second look", len(queries))
                predictions = self._stored(entrant, "again", lambda tell: learner.predict(queries, progress=tell))
        if recipe.calibration == "temperature" and not self.task.is_open:
            predictions = [with_temperature(p, entrant.temperature) for p in predictions]
        place = {e.id: i for i, e in enumerate(examples)}
        for query, prediction in zip(queries, predictions, strict=False):  # none where the budget was spent
            at = place[query.example.id]
            entrant.again.append(sample_row(self.task, recipe.name, at, query.example, prediction))

    def spread(self, entrant: Entrant) -> Spread | None:
        """Measure how much a recipe's draw of demonstrations and their order matter.

        None where nothing is drawn, or the budget does not allow it. The unit is that of its rows' score, or bits in
        open tasks.
        """
        recipe, examples = entrant.recipe, self.stream.examples
        if any(p.fit_tokens for p in entrant.predictions):
            return None
        prompts = other_draws(recipe, self.asker, examples, self.stream.rest, seed=self.seed)
        if not prompts:
            return None
        self.progress.begin(f"{recipe.name}, other draws", sum(len(queries) for _, queries in prompts))

        def predict(tell: Callable[[int], None]) -> list[Prediction]:
            return [p for learner, queries in prompts for p in learner.predict(queries, progress=tell)]

        try:
            predictions = self._stored(entrant, "draws", predict)
        except BudgetSpentError:
            return None
        asked = [query.example for _, queries in prompts for query in queries]
        pairs = zip(asked, predictions, strict=True)
        rows = [sample_row(self.task, recipe.name, i, *pair) for i, pair in enumerate(pairs)]
        key = "bits" if self.task.is_open else "score"
        return components(np.array([row[key] for row in rows]).reshape(N_DRAWS, 2, -1))

    @property
    def _shared(self) -> tuple[object, ...]:
        """What predictions depend on beside the recipe."""
        judge = self.judge.model.fingerprint if self.judge else None
        return judge, self.task.fingerprint, self.stream.fingerprint, self.seed

    @property
    def keep(self) -> Keep:
        """Where training survives an interruption."""
        asked = self.asker.model.fingerprint, dict(self.asker.layout.record)
        return Keep(self.store, self.folder / "training", digest(__version__, asked, *self._shared))

    def _prompted(self, entrant: Entrant, start: int, stop: int) -> Sequence[Prediction]:
        """Return the predictions of a part of the stream."""

        def predict(tell: Callable[[int], None]) -> Sequence[Prediction]:
            judge = replace(self._judge(), notes=lambda values: entrant.notes.append(dict(values)))
            learner = make_learner(entrant.recipe, self.task, self.asker, seed=self.seed, judge=judge)
            return learner.predict(self.stream.queries()[start:stop], progress=tell)

        return self._stored(entrant, f"{start}-{stop}", predict)

    def _stored(
        self, entrant: Entrant, part: str, predict: Callable[[Callable[[int], None]], Sequence[Prediction]]
    ) -> Sequence[Prediction]:
        """Return predictions from the store if they are there; else make and store them, with what selectors note."""
        recipe = entrant.recipe
        asked = (self.asker.model.fingerprint, dict(self.asker.layout.record)) if recipe.needs else None
        key = digest(__version__, recipe.fingerprint, asked, *self._shared, part)
        stored = self.store.get_predictions(key)
        if stored:
            predictions = [as_prediction(row) for row in stored]
            tokens = sum(p.tokens + p.fit_tokens for p in predictions)
            self.ledger.add(Cost(reused=len(stored) if recipe.needs else 0, tokens=tokens))
            self.progress.advance(len(stored))
            entrant.notes += self.store.get_predictions(digest(key, "selections"))
            return predictions
        n_notes = len(entrant.notes)
        self._advance(0)
        predictions = predict(self._advance)
        self.store.put_predictions(digest(key, "selections"), entrant.notes[n_notes:])
        self.store.put_predictions(key, [asdict(p) for p in predictions])
        return predictions

    def _judge(self) -> TaskModel:
        return replace(self.judge or self.asker, progress=Aside(self.progress, self._advance))

    def _tuned(self, entrant: Entrant, start: int, stop: int) -> Sequence[Prediction]:
        """Return the predictions of a recipe that trains: its settings race along the stream."""
        if not isinstance(entrant.learner, RacedLearner):
            how: Any = {"seed": self.seed, "judge": self._judge(), "keep": self.keep, "source": self.source}
            entrant.learner = tuned_learner(entrant.recipe, self.asker, **how)
        race = entrant.learner
        try:
            predictions = race.predict(self.stream.queries()[start:stop], progress=self._advance)
        finally:
            entrant.configurations = race.configurations()
        entrant.settled = race.winner
        return predictions

    def left(self) -> str:
        """Return what is left of the budget, in words; "" without one."""
        seconds, tokens = self.ledger.left
        if seconds < inf:
            return in_words(max(0.0, seconds))
        return f"{max(0.0, tokens):,.0f} tokens" if tokens < inf else ""

    def last_fit(self, entrant: Entrant) -> tuple[float, float]:
        """Return about how many seconds and tokens it would take from here to the fitted model."""
        n, n_all = len(entrant.predictions), len(self.stream.examples) + len(self.stream.rest)
        recipe = entrant.recipe
        if recipe.tuner and isinstance(entrant.learner, RacedLearner):
            recent = entrant.predictions[n // 2 :]
            times = (n_all - n) / len(recent) / max(1, entrant.learner.n_alive)
        elif recipe.steerer or (recipe.selector and not recipe.selector.per_query):
            recent = [p for i, p in enumerate(entrant.predictions) if i == refit_point(i)][-1:]
            times = n_all / max(1, refit_point(n - 1))
        else:
            return 0.0, 0.0
        return times * sum(p.fit_seconds for p in recent), times * sum(p.fit_tokens for p in recent)

    def _advance(self, n: int) -> None:
        self.progress.advance(n)
        self.ledger.check()
