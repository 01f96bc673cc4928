"""Several recipes at work on a stream, whose answers are combined."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from kshot.core.errors import KshotError, ModelError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.lessons import DivergedError
from kshot.core.types import Example, Prediction, Query
from kshot.learners.combining import Combining, combined
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.measures.calibration import UNCALIBRATED, Calibration, calibrated
from kshot.recipes.recipe import Recipe


class CombinedLearner(Learner):
    """Asks each member, and combines what they say of each query.

    A combiner that learns goes through a stream: all members are asked along it, and each answer is made by what is
    known of them from the examples before. One that has learnt asks no more than it needs.

    Args:
        recipe: With a combiner.
        setup: That of the run.
        members: A learner for each of the recipe's members.
    """

    def __init__(self, recipe: Recipe, setup: Setup, members: Sequence[Learner]):
        self.recipe, self._setup, self._members = recipe, setup, list(members)
        self._combiner = recipe.part("combiner")
        self._has_learnt = self._combiner.has_learnt
        self.follows = not self._has_learnt or any(member.follows for member in members)
        self._combining = Combining(recipe.name, setup.task, self._combiner)
        self._said: list[list[Prediction]] = [[] for _ in members]  # along a stream, before calibration
        self._n = 0  # queries of a stream that it follows

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query with the members that are needed, and combine the predictions."""
        tell = progress or (lambda n: None)
        found = self._answers(queries, tell) if self._has_learnt else self._along(queries, tell)
        self._n += len(queries)
        tell(len(queries))
        return found

    def _answers(self, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Return the answers where the combiner has learnt all it has to: a member is asked where it is needed."""
        task, combiner = self._setup.task, self._combiner
        said: list[list[Prediction]] = [[] for _ in queries]
        waiting = list(range(len(queries)))
        for i, member in enumerate(self._members):
            if i and combiner.lazy:
                waiting = [at for at in waiting if combiner.asks(task, said[at])]
            calibration = Calibration(**combiner.calibrations[i]) if combiner.calibrations else UNCALIBRATED
            found = self._ask(member, [queries[at] for at in waiting], tell) if waiting else []
            for at, prediction in zip(waiting, found, strict=True):
                said[at].append(calibration.of(prediction))
        return [combined(self.recipe.name, task, combiner, own) for own in said]

    def _along(self, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Return the answers to the next queries of a stream, each by the past alone."""
        found = [self._ask(member, queries, tell) for member in self._members]
        self._said = [[*own, *new] for own, new in zip(self._said, found, strict=True)]
        examples = [row.example for row in self._combining.past] + [q.example for q in queries]
        said = [
            [replace(p, setting=member.recipe.name) for p in self._calibrated(i, examples)[0][self._n :]]
            for i, member in enumerate(self._members)
        ]
        return [self._combining.answer(query, own) for query, *own in zip(queries, *said, strict=True)]

    def _calibrated(self, i: int, examples: Sequence[Example]) -> tuple[Sequence[Prediction], Calibration]:
        """Return what a member has said along the stream, each calibrated by those before it; and after all."""
        how = self._members[i].recipe.calibrated_on(self._setup.task)
        if how not in ("batch", "temperature"):
            return self._said[i], UNCALIBRATED
        return calibrated(self._said[i], examples, label_prior=how == "batch")

    def _ask(self, member: Learner, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        def ask() -> list[Prediction]:
            return member.anew().predict(queries, progress=lambda _: tell(0))

        kept, model = self._setup.kept, self._setup.model
        with self._naming(member):
            if kept is None or member.follows or not self.follows:  # else the whole is kept
                return ask()
            name = f"{member.recipe.fingerprint} {self._n}-{self._n + len(queries)}"
            ledger = model.ledger if model else Ledger()
            return kept.once(name, queries, ledger, ask, asks_model=member.recipe.asks_model)

    @contextmanager
    def _naming(self, member: Learner) -> Iterator[None]:
        """Say which member failed."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"each member must learn; '{member.recipe.name}' diverged: {error}") from error
        except Exception as error:
            if isinstance(error, BudgetSpentError | OSError) or (
                isinstance(error, KshotError) and not isinstance(error, ModelError)
            ):
                raise
            raise ModelError(
                f"each member must answer; '{member.recipe.name}' failed: {type(error).__name__}: {error}"
            ) from error

    def anew(self) -> "CombinedLearner":
        """Return a learner whose members begin anew, unless it follows the stream."""
        return self if self.follows else CombinedLearner(self.recipe, self._setup, [m.anew() for m in self._members])

    @property
    def settled(self) -> Recipe | None:
        """The members that are needed, with a combiner that knows how they have done; None where none learns."""
        return None if self._has_learnt else self._settled()[0]

    def _settled(self) -> tuple[Recipe, list[Learner]]:
        """Return what is handed over, and the learners of its members."""
        if self._has_learnt:
            return self.recipe, self._members
        examples = [row.example for row in self._combining.past]
        calibrations = [self._calibrated(i, examples)[1] for i in range(len(self._members))]
        combiner, kept = self._combining.fitted(calibrations)
        members = [self._members[i] for i in kept]
        return self.recipe.combining(combiner, [m.settled or m.recipe for m in members]), members

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Fit on all examples each member that is needed; a combiner that learns goes through them first."""
        if not self._has_learnt and not self._n:
            self.predict([Query(e, examples[:i]) for i, e in enumerate(examples)])
        recipe, learners = self._settled()
        combiner, kept = recipe.part("combiner").knowing(self._setup.task, examples).kept(len(learners))
        combiner = combiner.with_calibrations([combiner.calibrations[i] for i in kept if combiner.calibrations])
        members = tuple(self._fitted(learners[i], examples) for i in kept)
        recipe = recipe.combining(combiner, [m.recipe for m in members])
        about = {f"member {i}": dict(m.about) for i, m in zip(count(1), members) if m.about}
        return Fitted(recipe, self._setup.task, self._setup.seed, model=self._setup.model, about=about, members=members)

    def _fitted(self, member: Learner, examples: Sequence[Example]) -> Fitted:
        with self._naming(member):
            return member.fit(examples)

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fits of all members take."""
        if self._has_learnt:
            fits = [member.last_fit(predictions, known, n_end) for member in self._members]
            return max(seconds for seconds, _ in fits), max(tokens for _, tokens in fits)  # costs of all already
        fits = [member.last_fit(own, known, n_end) for member, own in zip(self._members, self._said, strict=True)]
        return sum(seconds for seconds, _ in fits), sum(tokens for _, tokens in fits)

    def check(self, examples: Sequence[Example]) -> None:
        """Check the members."""
        for member in self._members:
            member.check(examples)

    def save_state(self) -> None:
        """Write the members' states."""
        for member in self._members:
            member.save_state()

    def finish(self, *, forget: bool = False) -> None:
        """End the members' streams."""
        for member in self._members:
            member.finish(forget=forget)

    def forget(self) -> None:
        """Give up what the members have learnt."""
        for member in self._members:
            member.forget()
