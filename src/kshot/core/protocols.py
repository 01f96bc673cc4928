"""The protocols between the rooms: what language models, selectors, composers, baselines and learners must offer."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kshot.core.gradients import GradientSettings, GradientStore
from kshot.core.progress import Progress
from kshot.core.training import Batch, Lesson, StepLog, Training, TrainingText
from kshot.core.types import (
    Example,
    FloatArray,
    GenerateRequest,
    Generation,
    Prediction,
    Prompt,
    Query,
    ScoreRequest,
    Task,
    Work,
)


class Capability(StrEnum):
    """What a language model can be asked for."""

    SCORE = "score"
    GENERATE = "generate"
    GRADIENTS = "gradients"
    ACTIVATIONS = "activations"


class Store(Protocol):
    """Every score and every text once: what is put is on disk when `put` returns, wholly or not at all."""

    def get(self, keys: Sequence[str]) -> dict[str, tuple[FloatArray, float]]:
        """Return (values, seconds) of those keys that are stored."""
        ...

    def put(self, rows: Sequence[tuple[str, FloatArray, float]]) -> None:
        """Store (key, values, seconds) rows in one transaction; a key that is there keeps its first value."""
        ...

    def get_texts(self, keys: Sequence[str]) -> dict[str, tuple[Generation, float]]:
        """Return (generation, seconds) of those keys that are stored."""
        ...

    def put_texts(self, rows: Sequence[tuple[str, Generation, float]]) -> None:
        """Store (key, generation, seconds) rows as `put`."""
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
    """Something that scores continuations of prompts, and generates."""

    @property
    def name(self) -> str:
        """How the user named it, e.g. "demo"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights, precision and tokenizer: equal fingerprints give equal scores."""
        ...

    @property
    def origin(self) -> Mapping[str, str]:
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
    def chat(self) -> ChatFormat | None:
        """How it writes conversations; None for a base model."""
        ...

    @property
    def work(self) -> Work:
        """What it has done since it was made."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has when it is encoded as a segment of its own."""
        ...

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many tokens have to be run to score `requests`, without running any."""
        ...

    def with_store(self, store: Store | None) -> Self:
        """Return the same model with its own work counter, keeping every score in `store`, if there is one."""
        ...

    def score(
        self, requests: Sequence[ScoreRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[FloatArray]:
        """Return, for each request, one log-probability in nats per continuation, shape [n_continuations].

        Args:
            requests: Prompts with their continuations; prefixes that they share are computed once.
            progress: Called with the number of requests finished since the last call.
        """
        ...

    def generate(
        self, requests: Sequence[GenerateRequest], *, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Return an answer for each request; arguments as `score`."""
        ...

    def trainable(self, how: Training, *, seed: int) -> "TrainableModel":
        """Return the same model with weights of its own that can be trained; this one stays as it is.

        Raises:
            ModelError: It cannot be trained: it lacks the capability GRADIENTS, or what `how` asks for.
        """
        ...

    def gradients(
        self,
        texts: Sequence[TrainingText],
        how: GradientSettings,
        *,
        seed: int,
        store: GradientStore | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Return the gradient of each text's loss at each snapshot, `[n_texts, n_snapshots * dim]`.

        Args:
            texts: Each ends with its answer.
            how: With respect to what, and where on the way of learning them.
            seed: For every random choice.
            store: Where they are kept.
            progress: Called with the number of texts run since the last call, `how.n_runs(len(texts))` in all.

        Raises:
            ModelError: It lacks the capability GRADIENTS, or a gradient is not finite.
        """
        ...


class TrainableModel(LanguageModel, Protocol):
    """A language model that learns; its fingerprint depends on everything learnt, in its order."""

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the model before training."""
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


class Composer(Protocol):
    """Turns instruction, demonstrations and query into a prompt."""

    @property
    def record(self) -> Mapping[str, str]:
        """What it is, for the record: equal records compose equal prompts."""
        ...

    @property
    def terminator(self) -> str:
        """The text that ends an answer."""
        ...

    def compose(self, task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
        """Return the prompt with all demonstrations in the order given, the last one next to the query."""
        ...

    def answer(self, text: str) -> str:
        """Return the continuation that stands for the answer `text`, with the terminator."""
        ...


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
