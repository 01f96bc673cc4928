"""A recipe at work: what every learner offers, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot.core.models import Store
from kshot.core.schedule import refit_point
from kshot.core.seeding import digest
from kshot.core.types import Example, Prediction, Query, Task
from kshot.learners.fitted import Fitted
from kshot.learners.kept import Kept
from kshot.recipes.recipe import Recipe
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class Source:
    """Another task whose gradients guide."""

    model: TaskModel
    examples: tuple[Example, ...]

    @property
    def fingerprint(self) -> str:
        """Identifies the task and the wording."""
        return digest(self.model.task.fingerprint, dict(self.model.layout.record))


@dataclass(frozen=True)
class Setup:
    """What the learners of a run are given.

    Attributes:
        task: What is learnt.
        model: The language model that answers; None will do for classifiers.
        seed: For every random choice.
        selector_model: The language model that selectors ask.
        kept: Where the progress of a stream survives; None keeps nothing.
        source: Another task, for tuners that align with one.
        store: Where answers of services are kept that classifiers ask.
    """

    task: Task
    model: TaskModel | None
    seed: int
    selector_model: TaskModel | None = None
    kept: Kept | None = None
    source: Source | None = None
    store: Store | None = None


class Learner(ABC):
    """A recipe on a stream.

    Attributes:
        recipe: What is at work.
        follows: It goes through a stream in its order and keeps what it has learnt on the way, and its predictions;
            otherwise a prediction depends on the query and its past alone.
    """

    recipe: Recipe
    follows: bool = False

    @abstractmethod
    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past alone.

        Args:
            queries: Of a learner that follows a stream, the next ones.
            progress: Called with the number of predictions finished since the last call.
        """

    @abstractmethod
    def fit(self, examples: Sequence[Example]) -> Fitted:
        """Learn all examples, in their order, and return what is handed over."""

    def last_fit(self, predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
        """Return about how many seconds and tokens it takes from here to what is fitted on `n_end` examples.

        Args:
            predictions: Those of the stream so far.
            known: How many examples were known at each of them.
            n_end: How many examples there are in the end.
        """
        return 0.0, 0.0

    def anew(self) -> "Learner":
        """Return the same recipe before its first query, so that an interrupted run costs what an undisturbed one does.

        A learner that follows a stream returns itself.
        """
        return self

    def check(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most learn in no way that can be refused
        """Raise a UserError where what it would learn of the first examples cannot be learnt, before a run begins."""

    def save_state(self) -> None:  # noqa: B027 - most have nothing to write
        """Write what another process needs to go on from here."""

    def forget(self) -> None:  # noqa: B027 - most have nothing to give up
        """Give up what will not be used again."""

    def finish(self, *, forget: bool = False) -> None:
        """End the stream: give up what will not be handed over, or all."""
        if forget:
            self.forget()

    @property
    def settled(self) -> Recipe | None:
        """What has won in a race of settings; None where there was none."""
        return None

    @property
    def n_alive(self) -> int:
        """How many configurations are still at work."""
        return 1

    def configurations(self) -> list[dict[str, Any]]:
        """Return how the configurations in a race of settings stand."""
        return []

    def look_again(self, look: Callable[[Recipe], Mapping[str, Prediction]]) -> None:  # noqa: B027 - most have no members
        """Take what members say as they are handed over for what they have said along the stream, at its end.

        Args:
            look: Returns what a recipe says in a second look, by example; nothing where there is none.
        """

    def as_handed_over(self) -> list[Prediction]:
        """Return what is said of the stream's examples as it is handed over; nothing where it is not known."""
        return []

    def last(self, predictions: Sequence[Prediction]) -> Sequence[Prediction]:
        """Return the stream's predictions of what will be handed over, given those of the learner."""
        return predictions


def refitted(predictions: Sequence[Prediction], known: Sequence[int], n_end: int) -> tuple[float, float]:
    """Return what the last fit takes of a learner that is fitted anew whenever the past has doubled."""
    n = refit_point(known[-1])
    first = next(p for p, at in zip(predictions, known, strict=True) if refit_point(at) == n)
    times = n_end / max(1, n)
    return times * first.fit_seconds, times * first.fit_tokens
