"""Training at work on a stream: predict with what was learnt before, then learn the example.

Source: Bornschein et al. (2025), Algorithm 1, https://arxiv.org/abs/2512.19879. Differs: what was missed is learnt when
the next prediction asks for it, which is the same order; the optimiser's state is carried over the whole stream.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any, cast

from kshot.core.errors import DamagedError, NotFiniteError, UserError
from kshot.core.gradient_settings import FORWARD_AND_BACKWARD
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Batch, DivergedError, Lesson, TrainingText
from kshot.core.models import TrainableModel, TunableModel
from kshot.core.schedule import refit_point
from kshot.core.seeding import digest, generator
from kshot.core.steering import Steering
from kshot.core.types import Example, Prediction, Query, Task
from kshot.learners.drawn_lessons import covering, label_lessons
from kshot.learners.fitted import Fitted
from kshot.learners.inquiry import Inquiry
from kshot.learners.learner import Learner, Setup, refitted
from kshot.learners.passed_on import PassedOn
from kshot.learners.preparation import prepared
from kshot.learners.prompted import PromptLearner
from kshot.learners.steered import fitted_steering
from kshot.methods.composers.yes_no import YesNo
from kshot.recipes.recipe import Recipe
from kshot.store.files import writable, write_folder, write_jsonl
from kshot.taskmodel.taskmodel import TaskModel

SECONDS_BETWEEN_STATES = 20.0


class TrainedLearner(Learner):
    """Trains weights of its own with every example of the stream.

    Args:
        recipe: With a tuner and one value for each of its settings.
        setup: That of the run; the model is the one before training.
        passed_on: The recipe whose answers the teacher passes on, if it does that.
    """

    follows = True

    def __init__(self, recipe: Recipe, setup: Setup, passed_on: PassedOn | None = None):
        assert setup.model is not None
        recipe = as_trained(recipe, setup.task)
        self.recipe, self._tuner, self._teacher = recipe, recipe.part("tuner"), recipe.part("teacher")
        setup = replace(setup, model=_counting(setup.model), selector_model=_counting(setup.selector_model))
        assert setup.model is not None
        self._base, self._seed, self._kept = setup.model, setup.seed, setup.kept
        self._selecting = setup.selector_model or setup.model
        self._setup = setup
        self._source = setup.source if self._tuner.align != "none" else None
        other = self._source.fingerprint if self._source else None
        self._key = digest(self._kept.key if self._kept else None, recipe.fingerprint, other)
        self._learnt: list[str] = []  # ids, in their order
        self._n_saved, self._saved_at = 0, time.monotonic()
        self._n_past = 0  # of the query before
        self._n_known = 0  # examples learnt by a process before this one
        self._noted: int | None = None  # notes before those of the prediction that is not kept yet
        self._unkept: list[dict[str, Any]] = []  # noted before an interruption, for a prediction that was not kept
        self._steering: Steering | None = None
        self._is_between = True  # two examples: within the steps of one there is no state to go on from
        self.log: list[dict[str, Any]] = []
        self._inquiry = Inquiry(self._teacher, self, setup, passed_on)

    @cached_property
    def model(self) -> TrainableModel:
        """The language model with the weights that are trained; as they were kept, where they were."""
        if self._kept and self._state_file.exists():
            try:
                return self._as_kept()
            except DamagedError as error:
                self._kept.say(f"{self.recipe.name} begins to learn again: {error}")
                self._forget_state()
        return self._untrained()

    def _untrained(self) -> TrainableModel:
        average = self._teacher.averaging if self._teacher else None
        return cast(TunableModel, self._base.model).trainable(self._tuner.training, seed=self._seed, average=average)

    def _as_kept(self) -> TrainableModel:
        """Return the model as it was kept, and take over what was kept with it.

        Raises:
            DamagedError: The state, or the steering beside it, is not as it was written.
        """
        model = self._untrained()
        about, steering = model.load_state(self._state_file), None
        if about["key"] != self._key:
            raise DamagedError(
                f"{self._state_file} must be a state of this recipe; it is one of another. Delete it: training then "
                "begins again."
            )
        if about["steering"]:
            folder = self._steering_folder(len(about["learnt"]))
            try:
                steering = Steering.load(folder)
            except UserError as error:
                raise DamagedError(str(error)) from error
            if steering.fingerprint != about["steering"]:
                raise DamagedError(
                    f"{folder} must hold the steering that was kept with {self._state_file.name}; it holds another. "
                    "Delete both: training then begins again."
                )
        self._learnt, self.log, self._steering = about["learnt"], about["log"], steering
        self._unkept = about.get("notes", [])  # states of before have none
        self._inquiry.restore(self.log)
        self._n_saved = self._n_known = len(self._learnt)
        return model

    @property
    def prompted(self) -> PromptLearner:
        """What asks the model that is trained."""
        return self._prompted

    @cached_property
    def _prompted(self) -> PromptLearner:
        setup = replace(self._setup, selector_model=self._selecting)
        prompted = PromptLearner(self.recipe.without("teacher", "steerer"), setup)
        prompted.model = replace(prompted.model, model=self.model)
        return prompted

    def _steering_folder(self, n_learnt: int) -> Path:
        """Return where the steering of so many examples is kept; what is there is whole and stays as it is."""
        return self._state_file.with_suffix(f".steering-{refit_point(n_learnt)}")

    def _forget_state(self) -> None:
        with writable(self._state_file):
            self._state_file.unlink(missing_ok=True)
        self._forget_steerings()

    def _forget_steerings(self, but: Path | None = None) -> None:
        for other in self._state_file.parent.glob(f"{self._state_file.stem}.steering-*"):
            if other != but:
                rmtree(other, ignore_errors=True)

    @property
    def _state_file(self) -> Path:
        assert self._kept
        return self._kept.folder / f"{self._key[:16]}.safetensors"

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict queries in turn, each from its past, which has to begin with the pasts of the queries before it.

        Args:
            queries: The next ones of a stream.
            progress: Called with 1 for each prediction, and with 0 between parts of the work.

        Raises:
            DivergedError: Training has left the finite numbers; predictions before that are kept.
        """
        found = []
        for query in queries:
            found.append(self.predict_next(query, progress=(lambda _: progress(0)) if progress else None))
            if progress:
                progress(1)
        return found

    def predict_next(self, query: Query, *, progress: Callable[[int], None] | None = None) -> Prediction:
        """Predict the next query of the stream, as `predict`."""
        wanted = (query.wants_text, *(("sureness",) if query.wants_sureness else ()))
        key = digest(self._key, len(query.past), query.example.id, *wanted)
        if self._kept and (known := self._kept.known(key, [query])):
            (prediction,) = known
            self._inquiry.mark(query.example, prediction)
            self._base.ledger.add(Cost(reused=1, tokens=int(self._kept.tokens_of(key, known))))
            self._n_past = len(query.past)
            return prediction
        if self._kept is None:
            return self._predict(query, progress)
        n_notes = self._noted = len(self._kept.notes)
        try:
            prediction = self._predict(query, progress)
        except DivergedError as error:
            self._kept.diverged(key, error)
            raise
        self._kept.keep(key, [prediction], n_notes, once=True)
        self._noted = None
        return prediction

    def _predict(self, query: Query, progress: Callable[[int], None] | None) -> Prediction:
        self._show_again(query.past)
        began = time.perf_counter()
        self.learn(query.past, progress=progress)
        seconds = time.perf_counter() - began
        # By the log: what was learnt before an interruption counts as well
        rows = [row for row in self.log if self._n_past < row["n"] <= len(query.past)]
        n_tokens = FORWARD_AND_BACKWARD * sum(row["tokens"] for row in rows)
        asked = sum(row.get("asked", 0.0) for row in rows)
        before = sum(row.get("asked", 0.0) for row in rows if row["n"] <= self._n_known)
        self._base.ledger.add(Cost(tokens=n_tokens + before))  # it knows what this process has asked
        self._n_past = len(query.past)
        (prediction,) = self.says([query])
        self._inquiry.mark(query.example, prediction)
        return replace(
            prediction,
            fit_seconds=prediction.fit_seconds + seconds,
            fit_tokens=prediction.fit_tokens + n_tokens + asked,
        )

    def _show_again(self, past: Sequence[Example]) -> None:
        """After an interruption, choose again what the query before was shown: that was counted, and noted, with it."""
        if "_prompted" in vars(self) or not 0 < self._n_past < len(past):
            return
        known = past[: self._n_past]
        _ = self.model  # what was learnt before is known with it
        if len(self._learnt) < len(known):
            self.learn(known)
        with self._counted_before():
            self._prompted.show_again(Query(past[len(known)], known))

    @contextmanager
    def _counted_before(self) -> Iterator[None]:
        """Count nothing of what is done again after an interruption."""
        with self._base.ledger.apart(), self._selecting.ledger.apart():
            yield

    def says(self, queries: Sequence[Query], *, by_average: bool = False) -> list[Prediction]:
        """Return what the model says as it is now, or under the running average of its weights.

        Raises:
            DivergedError: Training has left the finite numbers.
        """
        prompted, own = self._prompted, self._prompted.model
        prompted.steering = self._steering
        prompted.model = replace(own, model=self.model.averaged) if by_average else own
        try:
            return prompted.predict(queries)
        except NotFiniteError as error:
            if not self._learnt:
                raise  # it is the model's own fault
            lr = self._tuner.lr
            raise DivergedError(
                f"the answers' log-probabilities are not numbers: lr={lr:g} is too large; use a smaller one"
            ) from error
        finally:
            prompted.model = own

    def learn(
        self, past: Sequence[Example], *, steers: bool = True, progress: Callable[[int], None] | None = None
    ) -> None:
        """Learn what is new in `past`, in its order; from the beginning, where more was learnt than stands in it.

        Args:
            past: All that is known.
            steers: Find the steering whenever the past has doubled, for what is predicted from there on.
            progress: Called with 0 after each example.
        """
        _ = self.model  # what was learnt before is known with it
        if self._learnt != [e.id for e in past[: len(self._learnt)]]:
            assert self._kept, "a stream has one order, and no way back"
            self._kept.say(f"{self.recipe.name} begins to learn again: a prediction from before its state is asked for")
            self._begin_again()
            _ = self.model
        if self._kept and self._unkept:
            self._kept.notes.extend(self._unkept)
            self._unkept = []
        for n in range(len(self._learnt), len(past)):
            with self._counted_before() if n < self._n_past else nullcontext():
                self._learn_next(past[: n + 1], steers=steers)
            if time.monotonic() - self._saved_at > SECONDS_BETWEEN_STATES:
                self.save_state()
            if progress:
                progress(0)

    def _learn_next(self, seen: Sequence[Example], *, steers: bool) -> None:
        """Learn the last example of what was seen."""
        looked_at = self._inquiry.look(seen)
        self._is_between = False
        known = self._know(seen)
        if self._tuner.passes:
            rows = self._learn_in_passes(seen) if refit_point(len(seen)) == len(seen) else []
        else:
            rows = self._steps(seen)
        known += self._inquiry.tokens
        if steers and "steerer" in self.recipe.parts and refit_point(len(seen)) == len(seen):
            known += self._steer(seen)
        for row in rows[:1]:
            row |= looked_at
            if known:
                row["asked"] = row.get("asked", 0.0) + known
        self.log += [{"n": len(seen), "example": seen[-1].id, "step": i} | row for i, row in enumerate(rows)]
        self._learnt.append(seen[-1].id)
        self._is_between = True

    def _steps(self, seen: Sequence[Example]) -> list[dict[str, Any]]:
        """Take the tuner's steps, and return what each reports."""
        return [
            asdict(self.model.learn(self._batch(seen, step))) | self._inquiry.tally()
            for step in range(self._tuner.steps)
        ]

    def _learn_in_passes(self, seen: Sequence[Example]) -> list[dict[str, Any]]:
        """Begin anew before each of the tuner's passes, which learns what it chooses by all examples so far.

        What is chosen first depends on the model before training, what is chosen later on the pass before.
        """
        if len(seen) < self._tuner.least:
            return []
        ready, ledger = self._prompted.prepare(seen[:-1]), self._base.ledger.part()
        asked = replace(ready.model, ledger=ledger, progress=self._selecting.progress)
        known = (*seen[:-1], *ready.made, seen[-1])
        self._begin_anew()
        if self._tuner is self.recipe.part("tuner") and len(seen) // 2 >= self._tuner.least:
            # After an interruption: what it finds out once was counted before
            self._choose(known, replace(asked, ledger=Ledger(), notes=None), 0)
        rows = []
        for number in range(self._tuner.passes):
            self._choose(known, asked, number)
            if number:
                self._begin_anew()
            rows += [row | {"pass": number} for row in self._steps(seen)]
        rows[0]["asked"] = ledger.cost.tokens
        return rows

    def _choose(self, seen: Sequence[Example], model: TaskModel, number: int) -> None:
        model, rng = replace(model, model=self.model), generator(self._seed, "choice", number)
        self._tuner = self._tuner.choosing(seen, model=model, number=number, rng=rng)

    def _begin_anew(self) -> None:
        """Go back to the weights before training, with all that was learnt of the stream."""
        self.model = self._untrained()
        self._prompted.model = replace(self._prompted.model, model=self.model)

    def _know(self, seen: Sequence[Example]) -> float:
        """Let the tuner look at examples before they are learnt; return how many tokens that took."""
        ready = self._prompted.prepare(seen[:-1])
        before = replace(ready.model, told=None, ledger=self._base.ledger.part())
        if len(seen) > 1:  # after an interruption; it was counted before
            self._tuner = self._tuner.knowing(seen[:-1], model=replace(before, ledger=Ledger()))
        self._tuner = self._tuner.knowing((*seen, *ready.made), model=before)
        return before.ledger.cost.tokens

    def check(self, examples: Sequence[Example]) -> None:
        """Raise a UserError unless tuner and model agree, and the layout says where the answers stand."""
        if self._tuner.training.displaces and self._tuner.weights == "full":
            self._untrained()  # weights in half precision cannot be displaced
        self._tuner.knowing(examples, model=replace(self._base, told=None))
        if self._teacher:
            self._teacher.check(self._base, self._selecting)
        for lesson in self._tuner.lessons(examples, lambda: (), step=1, rng=generator(0, "check")):
            self._base.training_text(lesson)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Learn all examples, and steer and show as the recipe's other methods say."""
        self.learn(examples, steers=self._inquiry.asks_on_the_way)
        if self._tuner.passes and refit_point(len(examples)) < len(examples):
            self._is_between = False  # along the stream the weights are those of the last power of two
            self._learn_in_passes(examples)
        about: dict[str, Any] = {}
        found = self._prompted.fit(examples)
        steering = None
        if "steerer" in self.recipe.parts:
            ready = prepared(self.recipe, examples, self._base, seed=self._seed)
            steering = self._steering_of((*examples, *ready.made), ready.model, self._base.ledger)
        if steering:
            about["steering"] = dict(steering.about)
        recipe = replace(self.recipe.having(**found.recipe.parts), members=())
        return replace(found, recipe=recipe, steering=steering, about={**about, **found.about})

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what it takes to learn the examples that are left, by what was learnt for the later half."""
        if self._tuner.passes:
            return refitted(predictions, known, n_end)
        half = len(predictions) // 2
        recent, before = predictions[half:], known[half - 1] if half else 0
        if known[-1] == before:
            return 0.0, 0.0
        times = (n_end - known[-1]) / (known[-1] - before)
        return times * sum(p.fit_seconds for p in recent), times * sum(p.fit_tokens for p in recent)

    def _steer(self, past: Sequence[Example]) -> float:
        """Fit the steering on the weights as they are now; until the next one it is used on later weights too.

        Returns:
            How many tokens that took, with what generators, loops and composers make for it.
        """
        ledger = self._base.ledger.part()
        ready = self._prompted.prepare(past, replace(self._base, ledger=ledger, progress=self._selecting.progress))
        found = self._steering_of((*past, *ready.made), ready.model, ledger)
        self._steering = found and replace(found, model="")
        return ledger.cost.tokens

    def _steering_of(self, known: Sequence[Example], prepared: TaskModel, ledger: Ledger) -> Steering | None:
        model = replace(prepared, model=self.model, progress=self._selecting.progress, ledger=ledger)
        return fitted_steering(self.recipe, known, model, seed=self._seed)

    @property
    def _asks_each(self) -> bool:
        """Whether it learns yes and no to each label of a set."""
        composer = self.recipe.part("composer")
        return self._base.task.is_multi_label and composer is not None and composer.asks_each

    def _batch(self, seen: Sequence[Example], step: int) -> Batch:
        """Return what one step learns; its choices depend on seed, new example, step and weights alone."""
        new, tuner, teacher = seen[-1], self._tuner, self._teacher
        names, past = (new.id, step), seen[:-1]
        ready = self._prompted.prepare(past)

        def shown() -> tuple[Example, ...]:
            return self._prompted.demonstrations(Query(new, past))

        stream, seen = seen, (*past, *ready.made, new) if ready.made else seen
        lessons = tuner.lessons(seen, shown, step=step, rng=generator(self._seed, "lesson", *names))
        if teacher:
            knowledge = self._inquiry.knowledge(stream, lessons, ready.model, step)
            rng = generator(self._seed, "teacher", *names)
            lessons = teacher.lessons(lessons, seen, step=step, rng=rng, knowledge=knowledge)
        support: list[Lesson] = []
        if tuner.direction > 0 and tuner.reference == "anchor":
            support = covering(seen, tuner.k, seed=self._seed, names=names)
        source: list[TrainingText] = []
        if self._source:
            rng = generator(self._seed, "source", *names)
            others = [self._source.examples[i] for i in rng.permutation(len(self._source.examples))]
            drawn = tuner.lessons(others, lambda: (), step=step + 1, rng=rng)
            source = [self._source.model.training_text(lesson) for lesson in drawn]
        if self._asks_each:
            rng = generator(self._seed, "labels", *names)
            lessons, support = (label_lessons(some, self._base.task.labels, rng) for some in (lessons, support))
        elif not teacher or teacher.only_chooses:
            teacher = None  # what is small stays the tuner's objective
            among = tuner.learns_over(self._base.task, seen)
            lessons, support = ([_among(lesson, among) for lesson in some] for some in (lessons, support))
        texts = [[ready.model.training_text(lesson) for lesson in some] for some in (lessons, support)]
        return Batch(texts[0], texts[1], source, (teacher or tuner).objective)

    def save_state(self) -> None:
        """Write the state of training, so that another process goes on from here, and the log of its steps."""
        if not self._kept or self._n_saved == len(self._learnt) or not self._is_between:
            return
        folder = self._steering_folder(len(self._learnt))
        if self._steering and not folder.exists():
            write_folder(folder, {}, more=self._steering.save)
        steering = self._steering.fingerprint if self._steering else None
        notes = self._kept.notes[self._noted :] if self._noted is not None else []  # what made them is not done again
        about = {"key": self._key, "learnt": self._learnt, "log": self.log, "steering": steering, "notes": notes}
        self.model.save_state(self._state_file, about)
        self._forget_steerings(but=folder)
        self._write_log()
        self._n_saved, self._saved_at = len(self._learnt), time.monotonic()

    def _write_log(self) -> None:
        """Write losses, norms and cosines of every step, for whoever wants to see them."""
        if self._kept and self.log:
            with writable(self._kept.folder):
                self._kept.folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^\w.+=-]+", "-", self.recipe.name)
            write_jsonl(self._kept.folder / f"{name}-{self._key[:8]}.jsonl", self.log)

    def forget(self) -> None:
        """Give up the weights, and what was kept of them but the log: they will not be used again."""
        self._write_log()
        vars(self).pop("_prompted", None)
        vars(self).pop("model", None)
        if self._kept:
            self._forget_state()

    def _begin_again(self) -> None:
        """Go back to before the first example."""
        self.forget()
        self._learnt, self.log, self._steering, self._n_saved, self._unkept = [], [], None, 0, []
        self._n_known = 0
        self._tuner = self.recipe.part("tuner")
        self._inquiry.forget()


def _counting(model: TaskModel | None) -> TaskModel | None:
    """Return the model with a part of its ledger."""
    return model and replace(model, ledger=model.ledger.part())


def as_trained(recipe: Recipe, task: Task) -> Recipe:
    """Return a recipe with what it is asked by where it trains on sets of labels and does not say."""
    is_asked_each = task.is_multi_label and "tuner" in recipe.parts and "composer" not in recipe.parts
    return recipe.having(composer=YesNo()) if is_asked_each else recipe


def _among(lesson: Lesson, answers: tuple[str, ...]) -> Lesson:
    """Return a lesson whose answers are learnt among the task's; what is made up, or passed on, has its own."""
    return lesson if lesson.is_apart or lesson.likely else replace(lesson, among=answers)
