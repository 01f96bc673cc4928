"""The protocols between the rooms: what language models, selectors, baselines and learners must offer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kshot.core.gradient_settings import GradientSettings
from kshot.core.lessons import Lesson, StepLog
from kshot.core.models import Activations, Gated
from kshot.core.objective_settings import ObjectiveSettings
from kshot.core.progress import Progress
from kshot.core.steering import Steering
from kshot.core.types import (
    Example,
    FloatArray,
    Prediction,
    Query,
    Task,
)


class Judge(Protocol):
    """What selectors that need a language model may ask of it: how well demonstrations do on labelled examples."""

    @property
    def task(self) -> Task:
        """Whose examples these are."""
        ...

    @property
    def progress(self) -> Progress:
        """Whom to tell of long work."""
        ...

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return the bits of each query's output behind its demonstrations, `[n_queries]`.

        Args:
            shown: For each query its demonstrations, in the order of the prompt.
            queries: Examples with their outputs.
        """
        ...

    def answer_log_probs(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return the mean log-probability in nats of the tokens of each query's output; as `code_lengths`."""
        ...

    def gradients(self, examples: Sequence[Example], how: GradientSettings, *, seed: int) -> NDArray[np.float32]:
        """Return for each example the gradients of its output's loss, without demonstrations, at each snapshot.

        Returns:
            `[n_examples, n_snapshots * dim]`, perhaps memory-mapped.
        """
        ...

    def note(self, values: Mapping[str, Any]) -> None:
        """Keep what a user may want to know of a choice."""
        ...


class Selector(Protocol):
    """Chooses and orders demonstrations, for a whole task or for each query.

    `per_query` says which: a per-query selector is fitted on all the past at every step of a stream, a task-level one
    again whenever the past has doubled. One that asks the judge for more than scores says so in an attribute `needs`.
    """

    @property
    def per_query(self) -> bool:
        """Whether the choice is for each query."""
        ...

    def fit(self, pool: Sequence[Example], *, judge: Judge, rng: np.random.Generator) -> Self:
        """Return a selector that knows `pool`; the one it is called on stays as it is.

        Args:
            pool: The examples to choose from.
            judge: The selector's language model on this task, for selectors that ask one.
            rng: For every random choice.
        """
        ...

    def select(self, query: Example | None, k: int, *, rng: np.random.Generator) -> list[int]:
        """Return at most `k` indices into the pool; the last one stands next to the query.

        `query` is None where the choice is for the whole task.
        """
        ...


@runtime_checkable
class LearningSelector(Selector, Protocol):
    """A per-query selector with a model to train: again whenever the past has doubled; it chooses from all of it."""

    @property
    def has_learnt(self) -> bool:
        """Whether `fit` has nothing to train."""
        ...

    def n_known(self, task: Task) -> int:
        """Return how many of a task's training examples it has learnt from before."""
        ...

    def learnt(self, pool: Sequence[Example], *, judge: Judge, rng: np.random.Generator) -> Self:
        """Return a selector that has learnt from `pool`; arguments as `fit`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what it has learnt."""
        ...

    def loaded(self, folder: Path) -> Self:
        """Return the selector with what `save` wrote."""
        ...


class Tuner(Protocol):
    """Says what is learnt when an example arrives.

    `steps` is the number of steps for each example, `k` the demonstrations in a training text.
    """

    @property
    def objective(self) -> ObjectiveSettings:
        """What is made small over the lessons."""
        ...

    @property
    def steps(self) -> int:
        """Steps of training for each new example."""
        ...

    @property
    def k(self) -> int:
        """The most demonstrations in a lesson."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether demonstrations are the first `k` of the stream, in lessons as in prompts."""
        ...

    def lessons(
        self, seen: Sequence[Example], shown: Callable[[], Sequence[Example]], *, step: int, rng: np.random.Generator
    ) -> list[Lesson]:
        """Return what one step learns.

        Args:
            seen: All examples so far, the new one last.
            shown: Returns the demonstrations behind which the new one was predicted.
            step: Which of the steps for the new example it is, from 0.
            rng: For every random choice; every step has its own.
        """
        ...


class Baseline(Protocol):
    """A classifier without a language model, in the same race."""

    def applies(self, task: Task) -> bool:
        """Return whether the task's kind suits it."""
        ...

    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Return a classifier that has learnt `examples`, which may be none or have one label only."""
        ...

    def probabilities(self, queries: Sequence[Example]) -> list[FloatArray]:
        """Return for each query one probability per candidate (`Task.candidates`), summing to 1."""
        ...


class Learner(Protocol):
    """A recipe at work: all that the evaluation and `AdaptedModel` see."""

    def predict(self, queries: Sequence[Query], *, progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """Predict each query from its own past alone."""
        ...


class Subject(Judge, Protocol):
    """What a steerer may ask of the language model on its task."""

    @property
    def activations(self) -> Activations:
        """The model's activations."""
        ...

    def texts_at_end(self, texts: Sequence[str], site: str) -> NDArray[np.float32]:
        """Return the activations at the last token of each bare text, as `Activations.read`."""
        ...

    def prompts_at_end(
        self, shown: Sequence[Sequence[Example]], queries: Sequence[Example], site: str
    ) -> NDArray[np.float32]:
        """Return the activations where the answer to each query begins, behind its demonstrations."""
        ...

    def bits_under(
        self, steerings: Sequence[Steering], queries: Sequence[Example], shown: Sequence[Sequence[Example]] = ()
    ) -> FloatArray:
        """Return the bits of each query's output under each steering, `[n_steerings, n_queries]`.

        Args:
            steerings: One without edits stands for the model as it is.
            queries: Examples with their outputs.
            shown: For each query its demonstrations; none by default.
        """
        ...

    def learn(self, gated: Gated, examples: Sequence[Example], *, loss: str) -> StepLog:
        """Take one step of training gates on the examples' answers, without demonstrations.

        `loss` says on what: "all" tokens, the "first" of each, or the "choice" among the answers that can be given.
        """
        ...

    @property
    def unsteered(self) -> str:
        """The fingerprint of the model without a steering."""
        ...


@runtime_checkable
class Steerer(Protocol):
    """Finds the steering of a task: changes of activations in the place of examples in the prompt."""

    @property
    def least(self) -> int:
        """The fewest examples it can be fitted on; with fewer nothing is steered."""
        ...

    def fit(self, examples: Sequence[Example], *, subject: Subject, rng: np.random.Generator) -> Steering:
        """Return the steering.

        Args:
            examples: What is known of the task, at least `least`.
            subject: The language model on this task.
            rng: For every random choice.

        Raises:
            UserError: Too few examples, or settings that the model does not allow.
            ModelError: The architecture's activations cannot be changed.
        """
        ...
