"""A combination of the other recipes of the race, from what these have said already: nothing is asked for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from kshot.core.errors import ModelError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.types import Example, Prediction, Query
from kshot.learners.build import make_learner
from kshot.learners.combining import Combining, crossed
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.methods.contracts import Combiner
from kshot.race.entrant import Entrant
from kshot.recipes.recipe import Recipe


class Mixture(Learner):
    """Combines what the others of a race have said along the stream; those that are out of it have no part any more.

    Who was dropped has its part in what it has predicted before, also where the others came to the end first: what
    comes later must not choose the members. What is handed over is fitted on the same examples, but on what the others
    have said of them in their second looks, where there are any: as they are handed over too.

    Args:
        recipe: A combiner without members.
        setup: That of the run.
        others: Which are combined; they predict each slice of the stream first.
        last_fit: Returns what the last fit of one of them takes (`Learner.last_fit`).
        ledger: Of the run.
    """

    follows = True

    def __init__(
        self,
        recipe: Recipe,
        setup: Setup,
        others: Sequence[Entrant],
        last_fit: Callable[[Entrant], tuple[float, float]],
        ledger: Ledger,
    ):
        self.recipe, self._setup, self._others = recipe, setup, others
        self._last_fit, self._ledger = last_fit, ledger
        self._examples: list[Example] = []  # of the queries so far
        self._able: list[Entrant] = []  # who has predicted all of them
        self._fitted: tuple[int, tuple[Combiner, list[Entrant]]] | None = None

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict the next queries of the stream by what those that are not lost have said of them.

        Raises:
            BudgetSpentError: The budget was spent before one that is still in the choice came so far.
            ModelError: None of them is left.
        """
        start, stop = len(self._examples), len(self._examples) + len(queries)
        if any(e.status == "stopped" and len(e.rows) < stop for e in self._others):
            raise BudgetSpentError
        able = [e for e in self._others if not e.is_lost and len(e.rows) >= stop]
        if all(e.status == "dropped" for e in able):
            self._ledger.check()
            raise ModelError("a recipe that it combines must be left; all are out of the race")
        said = list(zip(*(map(_prediction, entrant.rows[:stop]) for entrant in able), strict=True))
        combining = self._combining(said[:start])
        found = [combining.answer(query, own) for query, own in zip(queries, said[start:], strict=True)]
        self._examples += [query.example for query in queries]
        self._able, self._fitted = able, None
        if progress:
            progress(len(queries))
        return found

    def _combining(self, said: Sequence[Sequence[Prediction]]) -> Combining:
        """Return the combiner with these predictions of the first examples for its past."""
        combining = Combining(self.recipe.name, self._setup.task, self.recipe.part("combiner"))
        for example, own in zip(self._examples, said, strict=False):
            combining.remember(example, own)
        return combining

    def _handed_over(self) -> tuple[Combiner, list[Entrant]]:
        """Return what would be handed over now: a combiner, and the recipes that it needs."""
        n_again = sum(len(entrant.again) for entrant in self._able)
        if self._fitted is None or self._fitted[0] != n_again:
            n = len(self._examples)
            combining = self._combining(list(zip(*(_as_handed_over(e, n) for e in self._able), strict=True)))
            combiner, kept = combining.fitted([entrant.calibration for entrant in self._able])
            self._fitted = n_again, (combiner, [self._able[i] for i in kept])
        return self._fitted[1]

    def as_handed_over(self) -> list[Prediction]:
        """Return what is said of the examples so far as it is handed over, each fifth by how the members do elsewhere.

        Along the stream the members show other demonstrations, and weights are those of fewer examples: how sure that
        is does not tell how often what is handed over is right where it is as sure.
        """
        said = list(zip(*(_as_handed_over(e, len(self._examples)) for e in self._able), strict=True))
        return crossed(self.recipe.name, self._setup.task, self.recipe.part("combiner"), self._examples, said)

    @property
    def settled(self) -> Recipe | None:
        """The recipes that are needed, with a combiner that knows how they have done and are calibrated now."""
        if not self._able:
            return None
        combiner, members = self._handed_over()
        combiner = combiner.with_calibrations([asdict(e.calibration) for e in members])
        return self.recipe.combining(combiner, [e.settled or e.recipe for e in members])

    def _members(self) -> list[Entrant]:
        return self._handed_over()[1] if self._able else []

    def configurations(self) -> list[dict[str, Any]]:
        """Return a row for each recipe that is combined: name, predictions, their bits, and how much it counts."""
        if not self._able:
            return []
        combiner, members = self._handed_over()
        return [
            {
                "recipe": entrant.recipe.name,
                "n": len(entrant.rows),
                "bits_per_example": sum(row["bits"] for row in entrant.rows) / len(entrant.rows),
                "weight": weight,
                "status": "combined",
            }
            for entrant, weight in zip(members, combiner.weights or [None] * len(members), strict=True)
        ]

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fits of those that are needed take."""
        fits = [self._last_fit(entrant) for entrant in self._members()]
        return sum(seconds for seconds, _ in fits), sum(tokens for _, tokens in fits)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Fit on all examples what is needed; members that train go on where those of the race ended."""
        assert self.settled is not None, "a mixture knows its members from what they have said"
        return make_learner(self.settled, self._setup).fit(examples)


def _as_handed_over(entrant: Entrant, n: int) -> list[Prediction]:
    """Return what an entrant has said of the first n examples of the stream: in its second look, where it was asked."""
    again = {row["position"]: row for row in entrant.again}
    return [_prediction(again.get(row["position"], row)) for row in entrant.rows[:n]]


def _prediction(row: Mapping[str, Any]) -> Prediction:
    """Return the calibrated prediction that a sample row tells."""
    return Prediction(**{field.name: row[field.name] for field in fields(Prediction)})
