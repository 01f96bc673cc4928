"""Several recipes at work on a stream, whose answers are combined."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

from kshot.core.errors import KshotError, ModelError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.lessons import DivergedError
from kshot.core.seeding import digest
from kshot.core.types import Example, Prediction, Query, Task
from kshot.learners.combining import Combining, combined, crossed, examined
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.measures.calibration import UNCALIBRATED, Calibration, calibrated
from kshot.methods.contracts import Combiner
from kshot.recipes.recipe import Recipe


class CombinedLearner(Learner):
    """Asks each member, and combines what they say of each query.

    A combiner that learns goes through a stream: all members are asked along it, or, where it learns by the first
    alone, those that are needed; each answer is made by what is known of them from the examples before. One that has
    learnt asks no more than it needs.

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
        self._places: list[list[int]] = [[] for _ in members]  # in the stream, of what each has said
        self._examples: list[Example] = []  # of the queries of a stream that it follows
        self._looks: list[Mapping[str, Prediction]] = [{} for _ in members]  # what each has said in a second look

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query with the members that are needed, and combine the predictions."""
        tell = progress or (lambda n: None)
        if self._has_learnt:
            found = self._answers(queries, tell)
        else:
            along, n = self._by_first if self._combiner.by_first else self._along, len(self._examples)
            try:
                found = along(queries, tell)
            except BaseException:
                self._back_to(n)
                raise
        tell(len(queries))
        return found

    def _back_to(self, n: int) -> None:
        """Forget what was said along the stream from the place `n` on: not all members have answered that."""
        del self._examples[n:], self._combining.past[n:]
        for said, places in zip(self._said, self._places, strict=True):
            stays = sum(at < n for at in places)
            del said[stays:], places[stays:]

    def _answers(self, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Return the answers where the combiner has learnt all it has to: a member is asked where it is needed."""
        task, combiner = self._setup.task, self._combiner
        said: list[list[Prediction]] = [[] for _ in queries]
        waiting = list(range(len(queries)))
        for i, member in enumerate(self._members):
            if i and combiner.lazy:
                waiting = [at for at in waiting if combiner.asks(task, said[at])]
            if not waiting:
                break
            calibration = Calibration(**combiner.calibrations[i]) if combiner.calibrations else UNCALIBRATED
            asked, tokens = self._next(i, combiner, [queries[at] for at in waiting], [said[at] for at in waiting])
            for at, prediction in zip(waiting, self._ask(member, asked, tell), strict=True):
                said[at].append(calibration.of(replace(prediction, tokens=prediction.tokens + tokens)))
        own, name, model = zip(queries, said, strict=True), self.recipe.name, self._setup.model
        return [_as_wanted(task, query, examined(name, task, combiner, query, some, model)) for query, some in own]

    def _along(self, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Return the answers to the next queries of a stream, each by the past alone."""
        places = self._coming(queries)
        said = [self._hear(i, self._ask(m, queries, tell), places) for i, m in enumerate(self._members)]
        return [
            self._combining.answer(query, own, self._setup.model) for query, *own in zip(queries, *said, strict=True)
        ]

    def _by_first(self, queries: Sequence[Query], tell: Callable[[int], None]) -> list[Prediction]:
        """Return the same where the combiner learns by its first member alone: others are asked where it asks them."""
        task, places = self._setup.task, self._coming(queries)
        asked, _ = self._next(0, self._combiner, queries, [()] * len(queries))
        said = [[p] for p in self._hear(0, self._ask(self._members[0], asked, tell, of=asked), places)]
        ready = []
        for query, own in zip(queries, said, strict=True):
            ready.append(self._combining.ready(query))
            self._combining.remember(query.example, own)
        waiting = list(range(len(queries)))
        for i, member in list(enumerate(self._members))[1:]:
            waiting = [at for at in waiting if ready[at].asks(task, said[at])]
            told = [self._next(i, ready[at], [queries[at]], [said[at]]) for at in waiting]
            asked = [query for some, _ in told for query in some]
            found = self._ask(member, asked, tell, of=asked) if asked else []
            found = [replace(p, tokens=p.tokens + more) for p, (_, more) in zip(found, told, strict=True)]
            for at, prediction in zip(waiting, self._hear(i, found, [places[at] for at in waiting]), strict=True):
                said[at].append(prediction)
        own = zip(queries, ready, said, strict=True)
        return [_as_wanted(task, q, combined(self.recipe.name, task, fitted, some)) for q, fitted, some in own]

    def _next(
        self, i: int, combiner: Combiner, queries: Sequence[Query], said: Sequence[Sequence[Prediction]]
    ) -> tuple[list[Query], float]:
        """Return what a member is asked, with what the combiner reads or tells, and the tokens that took, for each."""
        if i + 1 < len(self._members) and combiner.reads_text and self._setup.task.is_open:
            queries = [replace(q, wants_text=True, wants_sureness=combiner.reads_sureness) for q in queries]
        if not i or self._setup.model is None:
            return list(queries), 0.0
        model = replace(self._setup.model, ledger=self._setup.model.ledger.part())
        told = combiner.tells([query.example.question for query in queries], said, model=model)
        return [_told(q, more) for q, more in zip(queries, told, strict=True)], model.ledger.cost.tokens / len(queries)

    def _coming(self, queries: Sequence[Query]) -> list[int]:
        """Return the places of the next queries in the stream."""
        first = len(self._examples)
        self._examples += [query.example for query in queries]
        return list(range(first, len(self._examples)))

    def _hear(self, i: int, found: Sequence[Prediction], places: Sequence[int]) -> list[Prediction]:
        """Return what a member says next along the stream, each calibrated by its own past."""
        self._said[i] += found
        self._places[i] += places
        name = self._members[i].recipe.name
        return [replace(p, setting=name) for p in self._calibrated(i)[0][len(self._said[i]) - len(found) :]]

    def _calibrated(self, i: int) -> tuple[Sequence[Prediction], Calibration]:
        """Return what a member has said along the stream, each calibrated by those before it; and after all."""
        how = self._members[i].recipe.calibrated_on(self._setup.task)
        if how not in ("batch", "temperature"):
            return self._said[i], UNCALIBRATED
        return calibrated(self._said[i], [self._examples[at] for at in self._places[i]], label_prior=how == "batch")

    def _ask(
        self, member: Learner, queries: Sequence[Query], tell: Callable[[int], None], *, of: Sequence[Query] = ()
    ) -> list[Prediction]:
        """Return what a member says; kept under its name and the place, or `of`, where less or more is asked."""

        def ask() -> list[Prediction]:
            return member.anew().predict(queries, progress=lambda _: tell(0))

        kept, model = self._setup.kept, self._setup.model
        with self._naming(member):
            if kept is None or member.follows or not self.follows:  # else the whole is kept
                return ask()
            stop = len(self._examples)
            name = f"{member.recipe.fingerprint} {stop - len(queries)}-{stop}"
            if of:
                what = [[q.example.id, dict(q.example.meta), q.wants_text, q.wants_sureness] for q in of]
                name = f"{member.recipe.fingerprint} {digest(what)}"
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
        combining, calibrations = self._combining, [self._calibrated(i)[1] for i in range(len(self._members))]
        if any(self._looks):
            said, calibrations = self._looked()
            combining = Combining(self.recipe.name, self._setup.task, self._combiner)
            for example, own in zip(self._examples, said, strict=True):
                combining.remember(example, own)
        combiner, kept = combining.fitted(calibrations)
        members = [self._members[i] for i in kept]
        return self.recipe.combining(combiner, [m.settled or m.recipe for m in members]), members

    def look_again(self, look: Callable[[Recipe], Mapping[str, Prediction]]) -> None:
        """Take second looks of the members, if the combiner weighs them."""
        if self._combiner.weighs and not self._has_learnt:
            for i, member in enumerate(self._members):
                with self._naming(member):
                    self._looks[i] = look(member.settled or member.recipe)

    def _looked(self) -> tuple[list[tuple[Prediction, ...]], list[Calibration]]:
        """Return what the members say of each example, in second looks where there are any, and their calibrations."""
        said, calibrations = [], []
        for i, looks in enumerate(self._looks):
            along, calibration = self._calibrated(i)
            calibrations.append(calibration := calibration.asked(list(looks.values())))
            pairs = zip(self._examples, along, strict=True)
            said.append([calibration.of(looks[e.id]) if e.id in looks else p for e, p in pairs])
        return list(zip(*said, strict=True)), calibrations

    def as_handed_over(self) -> list[Prediction]:
        """Return what is said by second looks, each fifth by how the members do on the others; nothing without any."""
        if not any(self._looks):
            return []
        return crossed(self.recipe.name, self._setup.task, self._combiner, self._examples, self._looked()[0])

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Fit on all examples each member that is needed; a combiner that learns goes through them first."""
        if not self._has_learnt and not self._examples:
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
        asked = [(m, own, [known[at] for at in places]) for m, own, places in self._own() if own]
        fits = [member.last_fit(own, at, n_end) for member, own, at in asked]
        return sum(seconds for seconds, _ in fits), sum(tokens for _, tokens in fits)

    def _own(self) -> Iterator[tuple[Learner, list[Prediction], list[int]]]:
        """Yield each member with what it has said along the stream, and where."""
        yield from zip(self._members, self._said, self._places, strict=True)

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


def _told(query: Query, more: Mapping[str, Any]) -> Query:
    """Return the query with more in its meta."""
    return replace(query, example=replace(query.example, meta={**query.example.meta, **more})) if more else query


def _as_wanted(task: Task, query: Query, found: Prediction) -> Prediction:
    """Return a prediction without a text that the combiner alone wanted: else easy questions had more of them."""
    if query.wants_text or not task.is_open:
        return found
    return replace(found, answer=None, cut_off=False, sureness=None, stated=None)
