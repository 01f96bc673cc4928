"""Training at work on a stream: predict with what was learnt before, then learn the example.

Source: Bornschein et al. (2025), Algorithm 1, https://arxiv.org/abs/2512.19879. Differs: what was missed is learnt when
the next prediction asks for it, which is the same order; the optimiser's state is carried over the whole stream.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from kshot.core.gradient_settings import FORWARD_AND_BACKWARD
from kshot.core.ledger import Cost
from kshot.core.lessons import Batch, DivergedError, Lesson, TrainingText
from kshot.core.models import TrainableModel
from kshot.core.schedule import refit_point
from kshot.core.seeding import digest, generator
from kshot.core.steering import Steering
from kshot.core.types import Example, Prediction, Query
from kshot.learners.kept import Keep, as_prediction
from kshot.learners.prompted import PromptLearner
from kshot.learners.steered import fitted_steering
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_folder, write_jsonl
from kshot.taskmodel.taskmodel import TaskModel

SECONDS_BETWEEN_STATES = 20.0
MOST_SUPPORT = 32  # examples in the anchor of guidance


@dataclass(frozen=True)
class Source:
    """Another task whose gradients guide."""

    asker: TaskModel
    examples: tuple[Example, ...]

    @property
    def fingerprint(self) -> str:
        """Identifies the task and the wording."""
        return digest(self.asker.task.fingerprint, dict(self.asker.layout.record))


class TunedLearner:
    """Trains weights of its own with every example of the stream.

    Args:
        recipe: With a tuner and one setting for each of its options.
        asker: The language model before training, and the wording.
        judge: What selectors ask.
        seed: For every random choice.
        keep: Where progress survives; None keeps nothing.
        source: The source task, for alignment.
    """

    def __init__(
        self,
        recipe: Recipe,
        asker: TaskModel,
        judge: TaskModel,
        seed: int,
        *,
        keep: Keep | None = None,
        source: Source | None = None,
    ):
        assert recipe.tuner is not None
        assert recipe.training is not None
        self.recipe, self._tuner, self._how = recipe, recipe.tuner, recipe.training
        self._asker, self._judge, self._seed = asker, judge, seed
        self._keep, self._source = keep, source if self._how.align != "none" else None
        other = self._source.fingerprint if self._source else None
        self._key = digest(keep.key if keep else None, recipe.fingerprint, other)
        self._learnt: list[str] = []  # ids, in their order
        self._n_saved, self._saved_at = 0, time.monotonic()
        self._n_past = 0  # of the query before
        self._steering: Steering | None = None
        self._is_between = True  # two examples: within the steps of one there is no state to go on from
        self.log: list[dict[str, Any]] = []

    @cached_property
    def model(self) -> TrainableModel:
        """The language model with the weights that are trained; as they were kept, where they were."""
        model = self._asker.model.trainable(self._how, seed=self._seed)
        if self._keep and self._state_file.exists():
            about = model.load_state(self._state_file)
            self._learnt, self.log = about["learnt"], about["log"]
            self._n_saved = len(self._learnt)
            self._steering = Steering.load(self._steering_folder) if about.get("steered") else None
        return model

    @cached_property
    def _prompted(self) -> PromptLearner:
        return PromptLearner(self.recipe, replace(self._asker, model=self.model), self._judge, self._seed)

    @property
    def _steering_folder(self) -> Path:
        """Where the steering of so many examples is kept; what is there is whole and stays as it is."""
        return self._state_file.with_suffix(f".steering-{refit_point(len(self._learnt))}")

    def _forget_steerings(self, but: Path | None = None) -> None:
        for other in self._state_file.parent.glob(f"{self._state_file.stem}.steering-*"):
            if other != but:
                rmtree(other, ignore_errors=True)

    @property
    def _state_file(self) -> Path:
        assert self._keep
        return self._keep.folder / f"{self._key[:16]}.safetensors"

    def predict(self, query: Query, *, progress: Callable[[int], None] | None = None) -> Prediction:
        """Predict a query from its past, which has to begin with the pasts of the queries before it.

        Args:
            query: What is asked.
            progress: Called with 0 between parts of the work.

        Raises:
            DivergedError: Training has left the finite numbers.
        """
        key = digest(self._key, len(query.past), query.example.id, query.wants_text)
        known = self._keep.memory.get_predictions(key) if self._keep else []
        if known and "diverged" in known[0]:
            raise DivergedError(known[0]["diverged"])
        if known:
            prediction = as_prediction(known[0])
            self._asker.ledger.add(Cost(reused=1, tokens=int(prediction.tokens + prediction.fit_tokens)))
            self._n_past = len(query.past)
            return prediction
        try:
            prediction = self._predict(query, progress)
        except DivergedError as error:
            self._remember(key, {"diverged": str(error)})
            raise
        self._remember(key, asdict(prediction))
        return prediction

    def _predict(self, query: Query, progress: Callable[[int], None] | None) -> Prediction:
        began = time.perf_counter()
        self.learn(query.past, progress=progress)
        seconds = time.perf_counter() - began
        # By the log: what was learnt before an interruption counts as well
        n_tokens = sum(row["tokens"] for row in self.log if self._n_past < row["n"] <= len(query.past))
        n_tokens *= FORWARD_AND_BACKWARD
        self._asker.ledger.add(Cost(tokens=n_tokens))
        self._n_past = len(query.past)
        asker = replace(self._asker, model=self.model)
        self._prompted.asker = asker.steered(self._steering) if self._steering else asker
        with np.errstate(invalid="ignore"):  # what is not a number is found below
            (prediction,) = self._prompted.predict([query])
        if any(math.isnan(value) for value in prediction.log_probs):
            raise DivergedError(f"the answers' log-probabilities are not numbers: lr={self._how.lr:g} is too large")
        return replace(
            prediction,
            fit_seconds=prediction.fit_seconds + seconds,
            fit_tokens=prediction.fit_tokens + n_tokens,
        )

    def _remember(self, key: str, row: dict[str, Any]) -> None:
        if self._keep:
            self._keep.memory.put_predictions(key, [row])

    def learn(self, past: Sequence[Example], *, progress: Callable[[int], None] | None = None) -> None:
        """Learn what is new in `past`, in its order."""
        model = self.model
        assert [e.id for e in past[: len(self._learnt)]] == self._learnt, "a stream has one order, and no way back"
        for n in range(len(self._learnt), len(past)):
            self._is_between = False
            rows = [asdict(model.learn(self._batch(past[: n + 1], step))) for step in range(self._tuner.steps)]
            self.log += [{"n": n + 1, "example": past[n].id, "step": i} | row for i, row in enumerate(rows)]
            self._learnt.append(past[n].id)
            if self.recipe.steerer and refit_point(n + 1) == n + 1:
                self._steer(past[: n + 1])
            self._is_between = True
            if time.monotonic() - self._saved_at > SECONDS_BETWEEN_STATES:
                self.save_state()
            if progress:
                progress(0)

    def _steer(self, past: Sequence[Example]) -> None:
        """Fit the steering on the weights as they are now; until the next one it is used on later weights too."""
        subject = replace(self._asker, model=self.model, progress=self._judge.progress)
        found = fitted_steering(self.recipe, past, subject, seed=self._seed)
        self._steering = found and replace(found, model="")

    def _batch(self, seen: Sequence[Example], step: int) -> Batch:
        """Return what one step learns; its choices depend on the seed, the new example and the step alone."""
        new, tuner = seen[-1], self._tuner
        names = (new.id, step)

        def shown() -> tuple[Example, ...]:
            return self._prompted.demonstrations(Query(new, seen[:-1]))

        lessons = tuner.lessons(seen, shown, step=step, rng=generator(self._seed, "lesson", *names))
        support: list[Lesson] = []
        if self._how.direction > 0 and self._how.reference == "anchor":
            support = covering(seen, tuner.k, seed=self._seed, names=names)
        source: list[TrainingText] = []
        if self._source:
            rng = generator(self._seed, "source", *names)
            others = [self._source.examples[i] for i in rng.permutation(len(self._source.examples))]
            drawn = tuner.lessons(others, lambda: (), step=step + 1, rng=rng)
            source = [self._source.asker.training_text(lesson) for lesson in drawn]
        texts = [[self._asker.training_text(lesson) for lesson in some] for some in (lessons, support)]
        return Batch(texts[0], texts[1], source, tuner.objective)

    def save_state(self) -> None:
        """Write the state of training, so that another process goes on from here, and the log of its steps."""
        if not self._keep or self._n_saved == len(self._learnt) or not self._is_between:
            return
        if self._steering and not self._steering_folder.exists():
            write_folder(self._steering_folder, {}, more=self._steering.save)
        about = {"learnt": self._learnt, "log": self.log, "steered": self._steering is not None}
        self.model.save_state(self._state_file, about)
        self._forget_steerings(but=self._steering_folder)
        self._write_log()
        self._n_saved, self._saved_at = len(self._learnt), time.monotonic()

    def _write_log(self) -> None:
        """Write losses, norms and cosines of every step, for whoever wants to see them."""
        if self._keep and self.log:
            self._keep.folder.mkdir(parents=True, exist_ok=True)
            name = re.sub(r"[^\w.+=-]+", "-", self.recipe.name)
            write_jsonl(self._keep.folder / f"{name}-{self._key[:8]}.jsonl", self.log)

    def forget(self) -> None:
        """Give up the weights, and what was kept of them but the log: they will not be used again."""
        self._write_log()
        self.__dict__.pop("_prompted", None)
        self.__dict__.pop("model", None)
        if self._keep:
            self._state_file.unlink(missing_ok=True)
            self._forget_steerings()


def covering(seen: Sequence[Example], k: int, *, seed: int, names: tuple[str | int, ...]) -> list[Lesson]:
    """Return lessons with k demonstrations that have each of (at most 32) seen examples in one of them."""
    order = generator(seed, "support", *names).permutation(len(seen))[:MOST_SUPPORT]
    parts = [[seen[j] for j in order[i : i + k + 1]] for i in range(0, len(order), k + 1)]
    return [Lesson(tuple(part[:-1]), part[-1]) for part in parts]
