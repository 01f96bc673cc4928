"""The protocols of steering: what a model with activations offers, what steerers may ask, what they must be."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kshot.core.protocols import Judge, LanguageModel
from kshot.core.steering import Shape, Steering
from kshot.core.training import StepLog, Training, TrainingText
from kshot.core.types import Example, FloatArray, Prompt, ScoreRequest


class Gated(Protocol):
    """A model whose heads are mixed with vectors by gates, which are trained."""

    def learn(
        self, texts: Sequence[TrainingText], *, first_token: bool, among: Sequence[Sequence[str]] = ()
    ) -> StepLog:
        """Take one step on the answers that end the texts, on their first tokens, or on the choice among answers."""
        ...

    def steering(self) -> Steering:
        """Return what the gates do now."""
        ...


class Activations(Protocol):
    """A model's activations."""

    @property
    def shape(self) -> Shape:
        """Number of layers and sizes."""
        ...

    def read(
        self, prompts: Sequence[Prompt], site: str, *, progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Return them at the last token of each prompt, `[n_prompts, n_layers, *shape.at(site)]`."""
        ...

    def score_under(
        self,
        requests: Sequence[ScoreRequest],
        steerings: Sequence[Steering],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[FloatArray]:
        """Return for each request log-probabilities under each steering, `[n_steerings, n_continuations]`."""
        ...

    def tokens_under(self, requests: Sequence[ScoreRequest], steerings: Sequence[Steering]) -> int:
        """Return how many tokens `score_under` would run, without running any."""
        ...

    def write_heads(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what outputs of heads `[n_layers, n_heads, head_dim]` add, `[n_layers, n_heads, width]`."""
        ...

    def gated(self, vectors: NDArray[np.float32], how: Training) -> Gated:
        """Return the model with a gate for each head that mixes `vectors` `[n_layers, n_heads, head_dim]` in."""
        ...


class SteerableModel(LanguageModel, Protocol):
    """A language model with the capability ACTIVATIONS."""

    @property
    def unsteered(self) -> str:
        """The fingerprint of the same weights without a steering."""
        ...

    @property
    def activations(self) -> Activations:
        """Its activations."""
        ...

    def steered(self, steering: Steering) -> "SteerableModel":
        """Return the same model with changed activations, behind changes that it has already.

        Raises:
            ModelError: The steering is another model's, or the architecture has none of its sites.
        """
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
