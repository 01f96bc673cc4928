"""The protocols between the rooms: what language models, selectors, composers, baselines and learners must offer."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, Self

import numpy as np

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

    def with_store(self, store: Store) -> Self:
        """Return the same model with its own work counter, keeping every score in `store`."""
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

    def code_lengths(self, shown: Sequence[Sequence[Example]], queries: Sequence[Example]) -> FloatArray:
        """Return the bits of each query's output behind its demonstrations, `[n_queries]`.

        Args:
            shown: For each query its demonstrations, in the order of the prompt.
            queries: Examples with their outputs.
        """
        ...


class Selector(Protocol):
    """Chooses and orders demonstrations, for a whole task or for each query.

    `per_query` says which: a per-query selector is fitted on all the past at every step of a stream, a
    task-level one again whenever the past has doubled.
    """

    per_query: bool

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
