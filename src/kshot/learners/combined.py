"""Several recipes at work on a stream, whose answers are combined."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.ledger import Ledger
from kshot.core.types import Example, Prediction, Query
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.recipes.recipe import Recipe


class CombinedLearner(Learner):
    """Asks each member, and combines what they say of each query.

    Args:
        recipe: With a combiner.
        setup: That of the run.
        members: A learner for each of the recipe's members.
    """

    def __init__(self, recipe: Recipe, setup: Setup, members: Sequence[Learner]):
        self.recipe, self._setup, self._members = recipe, setup, list(members)
        self.follows = any(member.follows for member in members)
        self._n = 0  # queries of a stream that it follows

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query with each member, and combine the predictions; progress counts whole ones."""
        by_member = [self._ask(member, queries, progress) for member in self._members]
        self._n += len(queries)
        combiner, found = self.recipe.part("combiner"), []
        for own in zip(*by_member, strict=True):
            whole = combiner.combine(self._setup.task, own)
            if not isinstance(whole, Prediction) or not self._holds(whole):
                raise ModelError(
                    f"{self.recipe.name}: a combiner must return a prediction with finite log-probabilities and "
                    f"probabilities that sum to 1; got {whole!r}"
                )
            costs = {
                name: sum(getattr(p, name) for p in own)
                for name in ("prompt_tokens", "seconds", "fit_seconds", "tokens", "fit_tokens")
            }
            found.append(replace(whole, **costs))
        if progress:
            progress(len(queries))
        return found

    def _holds(self, whole: Prediction) -> bool:
        """Return whether a prediction's numbers are what they must be."""
        probabilities = np.array(whole.probs)
        whole_is_one = self._setup.task.is_open or abs(probabilities.sum() - 1) < 1e-6
        return bool(whole_is_one and np.isfinite([*whole.log_probs, *whole.probs]).all() and (probabilities >= 0).all())

    def _ask(
        self, member: Learner, queries: Sequence[Query], progress: Callable[[int], None] | None
    ) -> list[Prediction]:
        tell = progress or (lambda n: None)

        def ask() -> list[Prediction]:
            return member.anew().predict(queries, progress=lambda _: tell(0))

        kept, model = self._setup.kept, self._setup.model
        if kept is None or member.follows or not self.follows:  # else the whole is kept
            return ask()
        name = f"{member.recipe.fingerprint} {self._n}-{self._n + len(queries)}"
        ledger = model.ledger if model else Ledger()
        return kept.once(name, queries, ledger, ask, asks_model=member.recipe.asks_model)

    def anew(self) -> "CombinedLearner":
        """Return a learner whose members begin anew, unless some follow the stream."""
        return self if self.follows else CombinedLearner(self.recipe, self._setup, [m.anew() for m in self._members])

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Fit each member on all examples."""
        members = tuple(member.fit(examples) for member in self._members)
        recipe = replace(self.recipe, members=tuple(m.recipe for m in members))
        about = {f"member {i}": dict(m.about) for i, m in zip(count(1), members) if m.about}
        return Fitted(recipe, self._setup.task, self._setup.seed, model=self._setup.model, about=about, members=members)

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return what the last fits of all members take."""
        fits = [member.last_fit(predictions, known, n_end) for member in self._members]
        return max(seconds for seconds, _ in fits), max(tokens for _, tokens in fits)  # costs are those of all already

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
