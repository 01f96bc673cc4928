"""The learner that answers with what was fitted: nothing is learnt any more."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from kshot.core.types import Example, Prediction, Query
from kshot.learners.classifier import ClassifierLearner
from kshot.learners.combined import CombinedLearner
from kshot.learners.demonstrations import giving
from kshot.learners.fitted import Fitted
from kshot.learners.learner import Learner, Setup
from kshot.learners.prompted import PromptLearner


def answering(fitted: Fitted) -> Learner:
    """Return a learner whose queries have the fitted pool as their past."""
    recipe, model = fitted.recipe, fitted.model
    setup = Setup(fitted.task, model, fitted.seed)
    if fitted.members:
        return CombinedLearner(recipe, setup, [_Fixed(member) for member in fitted.members])
    if not recipe.asks_model:
        return ClassifierLearner(recipe, setup)
    assert model is not None
    shows = giving(recipe, fitted.shown) if recipe.shows_one_set else recipe
    plain = shows.without("generator", "loop", "composer", "teacher", "steerer")
    learner = PromptLearner(plain, replace(setup, model=model.noted(fitted.notes)))
    learner.steering, learner.considers = fitted.steering, recipe.considers
    learner.bits.known.update(fitted.bits)
    return learner


class _Fixed(Learner):
    """A member of a combination, asked with its own pool as the past."""

    def __init__(self, fitted: Fitted):
        self.recipe, self._fitted, self._learner = fitted.recipe, fitted, answering(fitted)

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from the member's pool."""
        own = [replace(query, past=self._fitted.pool) for query in queries]
        return self._learner.predict(own, progress=progress)

    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Return what was fitted before."""
        return self._fitted
