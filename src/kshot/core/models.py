"""What language models offer: one protocol a capability."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import Averaging, Batch, StepLog, Training, TrainingText
from kshot.core.steering import Shape, Steering
from kshot.core.types import (
    FloatArray,
    GenerateRequest,
    Generation,
    Prompt,
    ScoreRequest,
)


class Capability(StrEnum):
    """What a language model can be asked for."""

    SCORE = "score"
    GENERATE = "generate"
    GRADIENTS = "gradients"
    ACTIVATIONS = "activations"
    MEMORY = "memory"


class Store(Protocol):
    """Every score and every text once: what is put is on disk when `put` returns, wholly or not at all."""

    def get(self, keys: Sequence[str]) -> dict[str, tuple[FloatArray, float]]:
        """Return (values, seconds) of those keys that are stored."""
        ...

    def put(self, rows: Sequence[tuple[str, FloatArray, float]], *, paid: Cost | None = None) -> None:
        """Store (key, values, seconds) rows in one transaction; a key that is there keeps its first value.

        In the same transaction the calls of `paid` are added to those that the store knows were paid.
        """
        ...

    def get_texts(self, keys: Sequence[str]) -> dict[str, tuple[Generation, float]]:
        """Return (generation, seconds) of those keys that are stored."""
        ...

    def put_texts(
        self,
        rows: Sequence[tuple[str, Generation, float]],
        *,
        beside: Sequence[tuple[str, FloatArray, float]] = (),
        paid: Cost | None = None,
    ) -> None:
        """Store (key, generation, seconds) rows, and rows of values `beside` them, as `put`."""
        ...


Messages = Sequence[Mapping[str, str]]  # each with `role` (system, user, assistant) and `content`


class ChatFormat(Protocol):
    """A model's own way of writing a conversation."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of the template."""
        ...

    def render(self, messages: Messages, *, open_answer: bool) -> str:
        """Return the conversation as text, ending where an answer begins if `open_answer`.

        Raises:
            ModelError: The template refuses these messages; the text says why.
        """
        ...

    def agrees(self, prompt: Prompt, messages: Messages) -> bool:
        """Return whether the prompt's token ids are those of the rendered conversation, which awaits an answer.

        Raises:
            ModelError: As `render`.
        """
        ...


class LanguageModel(Protocol):
    """What every model says of itself; what it can be asked for is in the facets below, one a capability."""

    @property
    def name(self) -> str:
        """How the user named it, e.g. "demo"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights, precision and tokenizer: equal fingerprints give equal scores."""
        ...

    @property
    def weights_id(self) -> str:
        """Identifies weights and tokenizer before training and steering, in whatever precision they run."""
        ...

    @property
    def old_fingerprint(self) -> str:
        """What `fingerprint` was before training and steering, for saved models of format 3 and before."""
        ...

    @property
    def origin(self) -> Mapping[str, Any]:
        """How to load it again beside its name: the arguments of `load_model` that were given."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can be asked for."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest prompt with its answer, in tokens."""
        ...

    @property
    def remark(self) -> str | None:
        """What a user should know before a run with it, or None."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """What a run's record says of how it is asked, as JSON; empty for a model that is loaded here."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it is a service: each call is counted and may cost money, and nothing is asked to measure speed."""
        ...

    @property
    def chat(self) -> ChatFormat | None:
        """How it writes conversations; None for a base model."""
        ...

    @property
    def in_messages(self) -> bool:
        """Whether it is asked in messages, which its service writes in its own way; then it scores no given text."""
        ...

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that are tokens with a meaning of their own, such as "<|im_end|>" (`kshot.core.control_tokens`)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has when it is encoded as a segment of its own."""
        ...

    def with_store(self, store: Store | None) -> Self:
        """Return the same model keeping every score in `store`, if there is one."""
        ...


@runtime_checkable
class CalledModel(Protocol):
    """A model behind an API that knows how many calls requests take."""

    def expected_calls(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many calls it takes to score `requests`, as far as that is known before."""
        ...


@runtime_checkable
class ReadingModel(Protocol):
    """A model that runs fewer tokens than a prompt has, as something beside it reads the others."""

    def run_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens of a prompt it runs."""
        ...


class ScoringModel(LanguageModel, Protocol):
    """A language model with the capability SCORE."""

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many tokens have to be run to score `requests`, without running any."""
        ...

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return, for each request, one log-probability in nats per continuation, shape [n_continuations].

        Args:
            requests: Prompts with their continuations; prefixes that they share are computed once.
            progress: Called with the number of requests finished since the last call.
            ledger: What it takes is added to, part by part, before `progress` is called.
        """
        ...


class WritingModel(LanguageModel, Protocol):
    """A language model with the capability GENERATE."""

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Return an answer for each request; arguments as `score`."""
        ...


@runtime_checkable
class TaughtModel(Protocol):
    """A model whose weights were trained."""

    @property
    def base(self) -> LanguageModel:
        """The model before training, on the same weights."""
        ...


class RememberingModel(LanguageModel, Protocol):
    """A model that can keep what prompts begin with, for whoever asks it again and again."""

    def remembering(self) -> Self:
        """Return the same model, which runs what stands before a question once, as long as there is room to keep it.

        Without a store: with one, what is asked depends on the requests of a call alone, so that it resumes to the bit.
        """
        ...


class TunableModel(LanguageModel, Protocol):
    """A language model with the capability GRADIENTS, as what is trained starts from it."""

    def trainable(self, how: Training, *, seed: int, average: Averaging | None = None) -> "TrainableModel":
        """Return the same model with weights of its own that can be trained; this one stays as it is.

        With `average` it keeps a running average of them too, for `averaged` and for objectives that ask it.

        Raises:
            ModelError: It lacks what `how` asks for.
        """
        ...


class DifferentiableModel(LanguageModel, Protocol):
    """A language model with the capability GRADIENTS, or one in training, as its gradients are looked at."""

    def gradients(
        self,
        texts: Sequence[TrainingText],
        how: GradientSettings,
        *,
        seed: int,
        store: GradientStore | None = None,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Return the gradient of each text's loss at each snapshot, `[n_texts, n_snapshots * dim]`.

        Args:
            texts: Each ends with its answer.
            how: With respect to what, and where on the way of learning them.
            seed: For every random choice.
            store: Where they are kept.
            progress: Called with the number of texts run since the last call, `how.n_runs(len(texts))` in all.
            ledger: What it takes is added to.

        Raises:
            ModelError: A gradient is not finite.
        """
        ...


class TrainableModel(ScoringModel, WritingModel, DifferentiableModel, Protocol):
    """A language model that learns; its fingerprint depends on everything learnt, in its order.

    Its gradients are those of its adapters as they are, and it trains nothing to take them (`epochs` 0).
    """

    @property
    def base(self) -> LanguageModel:
        """The model before training, on the same weights."""
        ...

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the model before training."""
        ...

    @property
    def averaged(self) -> "TrainableModel":
        """The same model, asked under the running average of its weights; of one that keeps it."""
        ...

    def continued(self, how: Training, *, seed: int) -> "TrainableModel":
        """Return a model of its own that begins with these weights; this one is the model before its training.

        Raises:
            UserError: Such weights cannot be trained further, or `how` is for others.
        """
        ...

    def learn(self, batch: Batch) -> StepLog:
        """Take one step of training.

        Raises:
            DivergedError: The loss is not finite; the weights are as they were before the step.
        """
        ...

    def save_state(self, file: Path, about: Mapping[str, Any]) -> None:
        """Write everything that training needs to go on, with `about` (JSON) beside it."""
        ...

    def load_state(self, file: Path) -> dict[str, Any]:
        """Go on where `save_state` was called; return its `about`."""
        ...

    def save_weights(self, folder: Path) -> None:
        """Write the trained weights into a folder."""
        ...

    def load_weights(self, folder: Path, fingerprint: str) -> None:
        """Read what `save_weights` wrote; `fingerprint` is what it was then."""
        ...

    def save_merged(self, folder: Path) -> None:
        """Write a whole model with the trained weights worked in."""
        ...


class Gated(Protocol):
    """A model changed at the last token of a prompt by what is trained: gates, or a direction."""

    def learn(
        self,
        texts: Sequence[TrainingText],
        *,
        first_token: bool,
        sources: NDArray[np.float32] | None = None,
        ledger: Ledger | None = None,
    ) -> StepLog:
        """Take one step on the answers that end the texts, or on the first tokens by which others differ from them.

        `sources` are for a direction: the activations that the prompts' last tokens are given of, `[n_texts, width]`.
        """
        ...

    def steering(self) -> Steering:
        """Return what is done now."""
        ...


class Activations(Protocol):
    """A model's activations."""

    @property
    def shape(self) -> Shape:
        """Number of layers and sizes."""
        ...

    def read(
        self,
        prompts: Sequence[Prompt],
        site: str,
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> NDArray[np.float32]:
        """Return them at the last token of each prompt, `[n_prompts, n_layers, *shape.at(site)]`."""
        ...

    def score_under(
        self,
        requests: Sequence[ScoreRequest],
        steerings: Sequence[Steering],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return for each request log-probabilities under each steering, `[n_steerings, n_continuations]`."""
        ...

    def tokens_under(self, requests: Sequence[ScoreRequest], steerings: Sequence[Steering]) -> int:
        """Return how many tokens `score_under` would run, without running any."""
        ...

    def write_heads(self, heads: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what outputs of heads `[n_layers, n_heads, head_dim]` add, `[n_layers, n_heads, width]`."""
        ...

    def context_mass(
        self,
        texts: Sequence[tuple[Prompt, str, str]],
        layer: int,
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[float]:
        """Return how much attention is on a passage while an answer is said, from 0 to 1.

        Of each text its prompt, the answer after it, and the passage as it stands in the prompt.
        """
        ...

    def saliency(
        self,
        texts: Sequence[tuple[Prompt, str, Sequence[tuple[int, int, int]]]],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return how strongly the answer follows each place of a prompt, `[n_places]`, by its gradient.

        Of each text its prompt, the answer after it, and the places: a segment, and where in its text one begins and
        ends.
        """
        ...

    def gated(self, vectors: NDArray[np.float32], how: Training) -> Gated:
        """Return the model with a gate for each head that mixes `vectors` `[n_layers, n_heads, head_dim]` in."""
        ...

    def interchange(self, layer: int, direction: NDArray[np.float32], how: Training) -> Gated:
        """Return the model whose last tokens have, after a layer and along `direction` `[width]`, what others have."""
        ...


class SteerableModel(ScoringModel, WritingModel, Protocol):
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
        """Return the same model with changed activations, after changes that it has already.

        Raises:
            ModelError: The steering is another model's, or the architecture has none of its sites.
        """
        ...
