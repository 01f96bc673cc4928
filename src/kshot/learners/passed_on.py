"""What a teacher passes on: what a recipe says of examples whose answers it does not know."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

from kshot.core.errors import TooLongError
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Lesson
from kshot.core.schedule import refit_point
from kshot.core.seeding import generator
from kshot.core.types import Example, Prediction, Query
from kshot.learners.answering import answering
from kshot.learners.learner import Learner, Setup
from kshot.measures.calibration import UNCALIBRATED, calibrated
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel

LEAST = 2  # examples: of fewer there are no halves


@dataclass
class PassedOn:
    """A recipe that is asked anew whenever the past has doubled.

    Attributes:
        recipe: What is asked.
        setup: With the model that it asks, which can be another one than that of the run.
        make: Returns a learner of the recipe.
        most: How many unlabelled inputs it is asked about for each example of the past.
        student: The model that learns what is passed on.
    """

    recipe: Recipe
    setup: Setup
    make: Callable[[Setup], Learner]
    most: int
    student: TaskModel

    def __post_init__(self):
        self._said: dict[int, dict[str, Prediction]] = {}  # by how many examples were known
        self._left_out: set[str] = set()

    def said(
        self, seen: Sequence[Example], *, again: bool = False, student: Ledger | None = None
    ) -> dict[str, Prediction]:
        """Return what it says of what was seen up to the last refit point, and of unlabelled inputs; by id.

        Args:
            seen: The stream so far.
            again: What it takes was counted before an interruption, as where it was asked before the last of them came.
            student: What it took is counted here where another student was told it first: each keeps it with its own
                predictions, from which a resumed run counts it.
        """
        n = refit_point(len(seen))
        if n < LEAST:
            return {}
        if n not in self._said:
            assert self.setup.model is not None
            ledger = self.setup.model.ledger.part()
            with ledger.apart() if again or n < len(seen) else nullcontext():
                self._said[n] = self._of(seen[:n], ledger)
        elif student and not again:
            student.add(Cost(tokens=tokens_of(self._said[n])))
        return self._said[n]

    def _of(self, known: Sequence[Example], ledger: Ledger) -> dict[str, Prediction]:
        """Return what it says, from a store where it said that before; what it took counts in any case."""
        setup, n, inputs = self.setup, len(known), self._inputs(len(known))
        known = [e for e in known if self._fits(e)]
        if sum(not own for own in _sources(known)) < LEAST:
            return {}
        queries = [Query(e, (), wants_text=True) for e in (*known, *inputs)]
        if setup.kept is None:
            found = self._asked(known, inputs, ledger)
        else:
            assert setup.model is not None
            name = f"passed on: {self.recipe.fingerprint} {n} {self.most}"
            if setup.model.model.fingerprint != self.student.model.fingerprint:
                name += f" by {setup.model.model.fingerprint}"
            # Each student pays for it: what it took is kept with the predictions of each
            kept = replace(setup.kept, counted=set())
            found = kept.once(name, queries, ledger, lambda: self._asked(known, inputs, ledger))
        of_known = found[: len(known)]
        how, calibration = self.recipe.calibrated_on(setup.task), UNCALIBRATED
        if how in ("batch", "temperature"):
            calibration = calibrated(of_known, known, label_prior=how == "batch")[1]
        found = [calibration.of(p) for p in found]
        if setup.task.is_open:
            found = [self._learnable(p, e) for p, e in zip(found, (*known, *inputs), strict=True)]
        return {p.example_id: p for p in found}

    def _learnable(self, said: Prediction, example: Example) -> Prediction:
        """Return a text that was said, marked as cut off where the student has no room for it."""
        if not said.answer:
            return said
        try:
            self.student.training_text(Lesson((), replace(example, output=said.answer)))
        except TooLongError:
            return replace(said, cut_off=True)
        return said

    def _fits(self, example: Example) -> bool:
        """Return whether a question fits the model that is asked and the one that learns."""
        assert self.setup.model is not None
        asked, student = self.setup.model, self.student
        for model in (asked, student) if asked.model.fingerprint != student.model.fingerprint else (asked,):
            try:
                model.prompt((), example)
            except TooLongError as error:
                if example.id not in self._left_out:
                    self._left_out.add(example.id)
                    model.progress.say(
                        f"nothing is passed on about '{example.id}': it needs {error.n} tokens, and "
                        f"'{model.model.name}' reads {error.most}. Shorten it to have it learnt from."
                    )
                return False
        return True

    @cached_property
    def inputs(self) -> tuple[Example, ...]:
        """The task's unlabelled inputs, as examples without an output."""
        return tuple(question.answered() for question in self.setup.task.unlabelled)

    def _inputs(self, n: int) -> list[Example]:
        order = generator(self.setup.seed, "inputs", n).permutation(len(self.inputs))[: self.most * n]
        return [e for i in sorted(order.tolist()) if self._fits(e := self.inputs[i])]

    def _asked(self, known: Sequence[Example], inputs: Sequence[Example], ledger: Ledger) -> list[Prediction]:
        """Ask about each half of what is known after the other half, and about the inputs after all of it."""
        assert (model := self.setup.model) is not None
        counted = replace(model, ledger=ledger.part())
        setup = replace(self.setup, model=counted, kept=None)
        halves = self._halves(known)
        found: dict[str, Prediction] = {}
        for own, others in (halves, halves[::-1]):
            ids = {e.id for e in own}
            found |= self._after([e for e in others if ids.isdisjoint(e.sources)], own, setup)
        found |= self._after(known, inputs, setup)
        first, *rest = [found[e.id] for e in (*known, *inputs)]
        took = counted.ledger.cost.tokens - sum(p.tokens for p in found.values())
        return [replace(first, fit_tokens=max(0.0, took)), *(replace(p, fit_tokens=0.0) for p in rest)]

    def _halves(self, known: Sequence[Example]) -> list[list[Example]]:
        """Return two halves of what is known; what was made from examples of one half is in it too."""
        sources = _sources(known)
        given = [i for i, own in enumerate(sources) if not own]
        order = generator(self.setup.seed, "halves", len(given)).permutation(len(given)).tolist()
        half = {given[i]: int(place >= len(given) // 2) for place, i in enumerate(order)}
        for i in (i for i, own in enumerate(sources) if own):  # after its sources
            of_sources = {half[source] for source in sources[i]}
            smaller = int(2 * sum(half.values()) < len(half))  # it is known to nobody where its sources are in both
            half[i] = of_sources.pop() if len(of_sources) == 1 else smaller
        return [[e for i, e in enumerate(known) if half[i] == side] for side in (0, 1)]

    def _after(self, known: Sequence[Example], asked: Sequence[Example], setup: Setup) -> dict[str, Prediction]:
        """Return what the recipe says of examples once it has learnt others."""
        if not asked:
            return {}
        fitted = self.make(setup).fit(tuple(known))
        queries = [Query(e, fitted.pool, wants_text=setup.task.is_open) for e in asked]
        return dict(zip([e.id for e in asked], answering(fitted).predict(queries), strict=True))


def tokens_of(said: Mapping[str, Prediction]) -> float:
    """Return what it took to say all of that."""
    return sum(p.tokens + p.fit_tokens for p in said.values())


def _sources(known: Sequence[Example]) -> list[list[int]]:
    """Return for each example the places, all before it, of those that it was made from."""
    places, found = dict[str, int](), list[list[int]]()
    for place, e in enumerate(known):
        found.append([places[name] for name in e.sources if name in places])
        places[e.id] = place
    return found
