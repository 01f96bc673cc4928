"""Measure recipes over one stream, a part at a time: predictions from the store or computed, and their sample rows."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

import numpy as np

from kshot.core.api_settings import is_api
from kshot.core.duration import in_words
from kshot.core.errors import StorageError, UserError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.lessons import DivergedError
from kshot.core.models import LanguageModel
from kshot.core.prices import in_usd
from kshot.core.progress import Progress, SideProgress
from kshot.core.seeding import digest
from kshot.core.types import Example, Prediction, Query, Task
from kshot.core.version import __version__
from kshot.learners.build import lacking, make_learner, what_it_takes
from kshot.learners.kept import Kept, Memory
from kshot.learners.learner import Learner, Setup
from kshot.measures.calibration import Calibration, calibrated
from kshot.measures.label_calibration import calibrated_labels
from kshot.measures.samples import sample_row
from kshot.measures.variance import Spread, components
from kshot.methods.roles import another
from kshot.race.entrant import Entrant
from kshot.race.mixture import Mixture
from kshot.race.second_look import ENOUGH_ASKED, N_DRAWS, other_draws, second_look
from kshot.race.stream import Stream
from kshot.recipes.recipe import Recipe
from kshot.store.disk_faults import disk_fault
from kshot.taskmodel.taskmodel import TaskModel

HIDDEN_PARTS = 5  # of a second look at sets of labels, in turn


@dataclass
class Measuring:
    """What all recipes of a run are measured with.

    Attributes:
        setup: What learners are given: task, models, seed, source.
        stream: The examples in their order.
        memory: For predictions.
        folder: For states of training.
        progress: Told of the run.
        ledger: Of the run, with its budget; those of the models are parts of it. Its reserve is what the last fit of
            any recipe may take.
    """

    setup: Setup
    stream: Stream
    memory: Memory
    folder: Path
    progress: Progress
    ledger: Ledger

    def __post_init__(self):
        self._candidates: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._counted: set[str] = set()

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.setup.task

    @property
    def model(self) -> TaskModel:
        """The language model that answers."""
        assert self.setup.model is not None
        return self.setup.model

    def enter(self, recipe: Recipe) -> Entrant:
        """Return a recipe before its first prediction, or with the reason why there will be none."""
        if not recipe.suits(self.task):
            return Entrant(recipe, "not-applicable", f"it is not for tasks of kind {self.task.kind}")
        if obstacle := recipe.obstacle(self.task):
            return Entrant(recipe, "not-applicable", obstacle)
        if recipe.missing_package:
            return Entrant(recipe, "not-installed", f"it needs the package {recipe.missing_package}")
        if missing := lacking(recipe, self.setup):
            return Entrant(recipe, "not-supported", f"it needs a model that can {what_it_takes(missing)}")
        return Entrant(recipe)

    def combine(self, entrant: Entrant, others: Sequence[Entrant]) -> None:
        """Let an entrant combine the others of the race; nothing else is asked for it, and it is never dropped.

        Others that combine recipes themselves are left out: what their members say would count and cost twice.
        """
        others = [e for e in others if not e.recipe.combines]
        if len(others) < 2:
            entrant.stop("not-applicable", "there are fewer than two other recipes that combine nothing themselves")
            return
        entrant.learner = Mixture(entrant.recipe, self.setup_of(entrant), others, self.last_fit, self.ledger)

    def advance(self, entrant: Entrant, stop: int) -> None:
        """Predict the stream from where the entrant stands up to `stop`; where that fails, it is out of the race."""
        recipe, start = entrant.recipe, len(entrant.predictions)
        self.progress.begin(recipe.name, stop - start)
        with self._others_go_on(entrant):
            if entrant.learner is None:
                entrant.learner = make_learner(recipe, self.setup_of(entrant))
            try:
                part = self._part(entrant, entrant.learner, start, stop)
            except BudgetSpentError:
                n = len(entrant.rows)
                entrant.stop(*(("stopped", f"the budget was spent after {n} predictions") if n else ("out-of-budget",)))
                return
            finally:
                entrant.configurations = entrant.learner.configurations() if entrant.learner else entrant.configurations
            entrant.settled = entrant.learner.settled
            entrant.predictions += map(self._packed, part)
            self._sample(entrant)

    @contextmanager
    def _others_go_on(self, entrant: Entrant) -> Iterator[None]:
        """Take a recipe out of the race where a model or a method fails or diverges, and say so.

        Raises:
            StorageError: What fails is the disk, whoever meets it.
        """
        name = entrant.recipe.name
        try:
            yield
        except DivergedError as error:
            self.progress.say(f"{name}: {error}")
            entrant.stop("diverged", str(error))
        except (StorageError, UserError):
            raise
        except Exception as error:
            if said := disk_fault(error):
                raise StorageError(
                    f"Files must be usable while {name} is measured; the system says: {said}. What was committed "
                    "before is kept: free space or mend the disk, then run the same command again."
                ) from error
            entrant.failure = traceback.format_exc()
            self.progress.say(f"{name} failed: {type(error).__name__}: {error}; the others go on")
            entrant.stop("failed", f"{type(error).__name__}: {error}")

    def _part(self, entrant: Entrant, learner: Learner, start: int, stop: int) -> Sequence[Prediction]:
        """Return the predictions of a part of the stream; a learner that follows it keeps them itself."""
        queries = self.stream.queries()[start:stop]
        if learner.follows:
            asks_nothing = entrant.recipe.combines_run  # so that no budget stops it
            return learner.predict(queries, progress=self.progress.advance if asks_nothing else self._advance)

        def predict() -> Sequence[Prediction]:
            return learner.anew().predict(queries, progress=self._advance)

        return self._once(entrant, f"{start}-{stop}", queries, predict)

    def _once(
        self, entrant: Entrant, part: str, queries: Sequence[Query], predict: Callable[[], Sequence[Prediction]]
    ) -> Sequence[Prediction]:
        """Return predictions from the store if they are there; else make and store them, with what methods note."""
        recipe, n_made = entrant.recipe, 0

        def make() -> Sequence[Prediction]:
            nonlocal n_made
            self._advance(0)
            predictions = predict()
            n_made = len(predictions)
            return predictions

        keep = replace(self._kept(recipe, asks_model=recipe.asks_model), notes=entrant.notes)
        name = f"{recipe.fingerprint} {part}"
        found = keep.once(name, queries, self.ledger, make, asks_model=recipe.asks_model)
        self.progress.advance(len(found) - n_made)
        return found

    def _sample(self, entrant: Entrant) -> None:
        """Make the sample rows, calibrated each on what was before it."""
        predictions, examples = entrant.predictions, self.stream.asked[: len(entrant.predictions)]
        how = entrant.recipe.calibrated_on(self.task)
        if how not in ("none", "contextual"):
            assert entrant.learner is not None
            calibrate = partial(calibrated, label_prior=how == "batch")
            if self.task.is_multi_label:
                calibrate = partial(self._calibrated_labels, as_said=how == "thresholds")
            final = entrant.learner.last(predictions)  # what is handed over is the winner, not whoever led before
            entrant.said = final
            predictions, entrant.calibration = calibrate(predictions, examples)
            if final is not entrant.predictions:
                entrant.calibration = calibrate(final, examples)[1]
        places = self.stream.positions[: len(predictions)]
        entrant.rows = [
            sample_row(self.task, entrant.recipe.name, at, e, self._packed(p))
            for at, e, p in zip(places, examples, predictions, strict=True)
        ]

    def _packed(self, prediction: Prediction) -> Prediction:
        """Return a prediction in little memory: those of a store have candidates of their own, which are the same."""
        candidates = self._candidates.setdefault(prediction.candidates, prediction.candidates)
        return replace(prediction.packed, candidates=candidates)

    def finish(self, entrant: Entrant) -> None:
        """Tell what happened to the prompts and answers of a recipe that has come to the end."""
        predictions = entrant.predictions
        recipe, n, n_dropped = entrant.recipe, len(predictions), sum(p.dropped > 0 for p in predictions)
        if entrant.learner:
            with self._others_go_on(entrant), suppress(BudgetSpentError):
                entrant.learner.look_again(partial(self._look_at_member, entrant))
        if entrant.learner:
            entrant.settled = entrant.learner.settled
            entrant.configurations = entrant.learner.configurations()
            if recipe.combines_run and len(entrant.configurations) == 1:
                alone = entrant.configurations[0]["recipe"]
                entrant.stop("not-applicable", f"it keeps {alone} alone, which stands for it")
                return
            said = zip(self.stream.positions, self.stream.asked, entrant.learner.as_handed_over(), strict=False)
            entrant.final = [sample_row(self.task, recipe.name, at, e, self._packed(p)) for at, e, p in said]
        if entrant.is_racing:
            entrant.stop("done")
        if n_dropped:
            self.progress.say(
                f"{recipe.name}: in {n_dropped} of {n} prompts demonstrations were left out, whole, to fit the "
                f"model's {self.model.model.max_tokens} tokens (`dropped` in samples.jsonl)"
            )
        n_written, n_cut = sum(p.answer is not None for p in predictions), sum(p.cut_off for p in predictions)
        if n_cut:
            self.progress.say(
                f"{recipe.name}: {n_cut} of {n_written} generated answers did not end within "
                f"{self.model.answer_tokens} tokens and were cut (`cut_off` in samples.jsonl)"
            )
        composer = (entrant.settled or recipe).part("composer")
        if composer and (remark := composer.remark([about for p in predictions for about in p.found])):
            self.progress.say(f"{recipe.name}: {remark}")
        for service in (one.part("classifier") for one in recipe.all_recipes):
            if service and service.remark:
                self.progress.say(f"note: {recipe.name}: {service.remark}")
        if entrant.settled and len(recipe.variants) > 1:
            self.progress.say(f"{recipe.name}: of {len(recipe.variants)} settings {entrant.settled.name} is chosen")

    def _look_at_member(self, entrant: Entrant, recipe: Recipe) -> dict[str, Prediction]:
        """Return what a recipe that an entrant combines says in its second look, by example; of the race it is kept."""
        found = second_look(recipe, self.setup, self.stream)
        if not found:
            return {}
        learner, queries = found
        self.progress.begin(f"{entrant.recipe.name}, a second look at {recipe.name}", len(queries))
        predict = partial(learner.predict, queries, progress=self._advance)
        said = self._once(Entrant(recipe), "again", queries, predict)
        return {query.example.id: p for query, p in zip(queries, said, strict=True)}

    def look_again(self, entrant: Entrant) -> None:
        """Ask a recipe as it will be handed over, where that is possible and the budget allows."""
        recipe = entrant.recipe
        if any(p.fit_tokens for p in entrant.predictions):
            return
        queries, predictions, unlabelled = [], [], []
        with self._others_go_on(entrant), suppress(BudgetSpentError):
            found = second_look(entrant.settled or recipe, self.setup, self.stream)
            if found:
                learner, queries = found
                self.progress.begin(f"{recipe.name}, a second look", len(queries))
                predict = partial(learner.predict, queries, progress=self._advance)
                predictions = self._once(entrant, "again", queries, predict)
                if entrant.calibration.strength and (entrant.settled or recipe).asks_unlabelled(self.task):
                    unlabelled = self._of_unlabelled(entrant, learner, queries)
        asked = [*predictions, *unlabelled]
        entrant.calibration = entrant.calibration.asked(asked)
        predictions = self._calibrated_again(entrant, queries, asked)
        place = {e.id: at for e, at in zip(self.stream.asked, self.stream.positions, strict=True)}
        for query, prediction in zip(queries, predictions, strict=False):  # none where the budget was spent
            at = place[query.example.id]
            entrant.again.append(sample_row(self.task, recipe.name, at, query.example, self._packed(prediction)))

    def _calibrated_again(
        self, entrant: Entrant, queries: Sequence[Query], asked: Sequence[Prediction]
    ) -> list[Prediction]:
        """Return a second look, calibrated; `asked` is what was said of it, and of unlabelled inputs behind it.

        Of a set of labels each has an offset, and all a threshold, which would know the very answers that are asked
        again: so each fifth of it is calibrated by what the stream says of the others.
        """
        predictions = asked[: len(queries)]
        if not (predictions and self.task.is_multi_label):
            return [entrant.calibration.of(p) for p in predictions]
        as_said = entrant.recipe.calibrated_on(self.task) == "thresholds"
        found = list(predictions)
        for part in range(HIDDEN_PARTS):
            hidden = {query.example.id for query in queries[part::HIDDEN_PARTS]}
            stream = zip(entrant.said, self.stream.asked, strict=True)
            said, known = zip(*((p, e) for p, e in stream if e.id not in hidden), strict=True)
            calibration = self._calibrated_labels(said, known, as_said=as_said)[1].asked(asked)
            found[part::HIDDEN_PARTS] = map(calibration.of, predictions[part::HIDDEN_PARTS])
        return found

    def _calibrated_labels(
        self, said: Sequence[Prediction], known: Sequence[Example], *, as_said: bool
    ) -> tuple[list[Prediction], Calibration]:
        """Return predictions of sets of labels, calibrated for the task's metric."""
        metric, positive = self.task.metrics[0], self.task.positive_label
        return calibrated_labels(said, known, metric=metric, positive_label=positive, as_said=as_said)

    def _of_unlabelled(self, entrant: Entrant, learner: Learner, asked: Sequence[Query]) -> Sequence[Prediction]:
        """Return what a recipe says of unlabelled inputs, as many as its label prior lacks beside what was asked."""
        more = self.task.unlabelled[: max(0, ENOUGH_ASKED - len(asked))]
        if not more:
            return ()
        queries = [Query(question.answered(), asked[0].past) for question in more]
        self.progress.begin(f"{entrant.recipe.name}, unlabelled inputs", len(queries))
        part = f"unlabelled {self.task.unlabelled_fingerprint}"
        return self._once(entrant, part, queries, partial(learner.predict, queries, progress=self._advance))

    def spread(self, entrant: Entrant) -> Spread | None:
        """Measure how much a recipe's draw of demonstrations and their order matter.

        None where nothing is drawn, the budget does not allow it, or a model or a method fails. The unit is that of
        its rows' score, or bits in open tasks.
        """
        recipe = entrant.settled or entrant.recipe
        if any(p.fit_tokens for p in entrant.predictions):
            return None
        try:
            prompts = other_draws(recipe, self.setup, self.stream)
            if not prompts:
                return None
            asked = [query for _, queries in prompts for query in queries]
            self.progress.begin(f"{recipe.name}, other draws", len(asked))

            def predict() -> list[Prediction]:
                return [p for learner, queries in prompts for p in learner.predict(queries, progress=self._advance)]

            predictions = self._once(entrant, "draws", asked, predict)
        except BudgetSpentError:
            return None
        except (StorageError, UserError):
            raise
        except Exception as error:  # the choice is made, and what is handed over needs none of them
            if disk_fault(error):
                raise
            self.progress.say(f"{recipe.name}: other draws could not be tried; {type(error).__name__}: {error}")
            return None
        n = len(asked) // len(prompts)  # each prompt is calibrated as if it were handed over
        drawn = [predictions[i : i + n] for i in range(0, len(predictions), n)]
        predictions = [p for own in drawn for p in map(entrant.calibration.asked(own).of, own)]
        pairs = enumerate(zip(asked, predictions, strict=True))
        rows = [sample_row(self.task, recipe.name, i, query.example, p) for i, (query, p) in pairs]
        key = "bits" if self.task.is_open else "score"
        return components(np.array([row[key] for row in rows]).reshape(N_DRAWS, 2, -1))

    def setup_of(self, entrant: Entrant) -> Setup:
        """Return what an entrant's learner is given: work beside predictions looks at the budget, and is kept."""
        aside = SideProgress(self.progress, self._advance)
        model = replace(self.model, notes=lambda values: entrant.notes.append(dict(values)))
        selecting = replace(self.setup.selector_model or model, notes=model.notes, progress=aside)
        keep = replace(self._kept(entrant.recipe), notes=entrant.notes)
        return replace(self.setup, model=model, selector_model=selecting, kept=keep)

    def last_setup(self, recipe: Recipe) -> Setup:
        """Return what the learner of a recipe's last fit is given: it may take what was kept of the budget."""

        def last(model: TaskModel) -> TaskModel:
            return replace(model, ledger=model.ledger.part(overspends=True))

        model = replace(last(self.model), progress=SideProgress(self.progress))
        selecting = self.setup.selector_model and last(self.setup.selector_model)
        return replace(self.setup, model=model, selector_model=selecting, kept=self._kept(recipe))

    def _kept(self, recipe: Recipe, *, asks_model: bool = True) -> Kept:
        """Return where the progress of a recipe's stream survives."""
        selecting = self.setup.selector_model
        asked = (_known_as(self.model.model), dict(self.model.layout.record)) if asks_model else None
        choosing = _known_as(selecting.model) if selecting else None
        others = choosing, self.task.fingerprint, self.stream.fingerprint
        unlabelled = self.task.unlabelled_fingerprint if recipe.uses_unlabelled else None
        more: list[str | list[str]] = [unlabelled] if unlabelled else []
        if recipe.other_models:  # of a folder that is another model by now the name is the same
            more.append([_known_as(another(name, self.model).model) for name in recipe.other_models])
        key = digest(__version__, asked, *others, self.setup.seed, *more)
        return Kept(self.memory, self.folder / "training", key, say=self.progress.say, counted=self._counted)

    def left(self) -> str:
        """Return what is left of the budget, in words, or by how much it was passed; "" without one."""
        seconds, tokens = self.ledger.left
        if seconds < inf:
            return f"{in_words(max(0.0, seconds))} of the budget left"
        paid, most = self.ledger.money, self.ledger.budget.money
        if paid is not None and most < inf:
            if paid > most:  # calls that were under way when it ended
                return f"{in_usd(paid)} paid, more than the budget of {in_usd(most)}"
            return f"{in_usd(most - paid)} of the budget left"
        return f"{max(0.0, tokens):,.0f} tokens of the budget left" if tokens < inf else ""

    def last_fit(self, entrant: Entrant) -> tuple[float, float]:
        """Return about how many seconds and tokens it would take from here to the fitted model."""
        if entrant.learner is None or not entrant.predictions:
            return 0.0, 0.0
        known = self.stream.positions[: len(entrant.predictions)]
        return entrant.learner.last_fit(entrant.predictions, known, len(self.stream.examples))

    def last_fit_money(self, entrant: Entrant) -> float:
        """Return about how many US dollars it would take, where a model behind an API is asked for it; else 0."""
        choosing, makes = self.setup.selector_model or self.model, {"generator", "loop", "composer"}
        asked = [choosing, self.model] if makes & entrant.recipe.parts.keys() else [choosing]
        is_paid = any(m.model.is_remote for m in asked) or any(map(is_api, entrant.recipe.other_models))
        if self.ledger.prices is None or not is_paid:
            return 0.0
        tokens, run = self.last_fit(entrant)[1], self.ledger.cost.tokens
        if not self.model.model.is_remote and run:  # most of what is run, such as training, is run here
            tokens *= min(1.0, self.ledger.paid.input_tokens / run)
        return self.ledger.prices.of(tokens, 0, 0)

    def _advance(self, n: int) -> None:
        self.progress.advance(n)
        self.ledger.check()


def _known_as(model: LanguageModel) -> str:
    """Identify a model, with how long its prompts may be where a user may say so: that changes what is shown."""
    return digest(model.fingerprint, model.max_tokens) if model.is_remote else model.fingerprint
