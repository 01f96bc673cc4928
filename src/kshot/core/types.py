"""The vocabulary: examples, tasks, prompts, requests and predictions, and the protocols between the rooms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kshot.core.plugins import resolve
from kshot.core.seeding import digest

FloatArray = NDArray[np.float64]
Kind = Literal["classification", "multiple_choice", "generation", "qa", "math", "parsing"]
KINDS: tuple[Kind, ...] = ("classification", "multiple_choice", "generation", "qa", "math", "parsing")
Role = Literal["instruction", "context", "demonstration", "query", "answer"]


@dataclass(frozen=True)
class Example:
    """One labelled example: an `input` with its `output` (empty where the answer is not known)."""

    input: str
    output: str
    id: str
    context: str | None = None
    explanation: str | None = None
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The input, then the context: an encoder that cuts long texts keeps the input."""
        return f"{self.input}\n{self.context}" if self.context else self.input


@dataclass(frozen=True)
class Task:
    """Labelled examples and what is asked of them.

    Attributes:
        labels: The closed set of outputs, known in advance; empty where every row brings its own choices.
        metrics: Names of metrics, the first is the primary one.
        choices_in_input: The rows' inputs list their choices as "(A) …" and outputs are letters as "(B)".
        positive_label: The label that the metric `f1` counts, if the task names one.
    """

    name: str
    kind: Kind
    train: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    instruction: str = ""
    choices_in_input: bool = True
    positive_label: str | None = None

    @staticmethod
    def load(source: str | Path, *, columns: Mapping[str, str] | None = None) -> "Task":
        """Load a task from a folder, a `.jsonl` or `.csv` file, or `builtin:NAME`; see `kshot.tasks.load`."""
        return resolve("kshot.tasks.load:load_task")(source, columns=columns)

    def candidates(self, example: Example) -> tuple[str, ...]:
        """Return the answers that `example` can have: the task's labels, or the row's letters or choices."""
        if self.kind != "multiple_choice":
            return self.labels
        if self.choices_in_input:
            return tuple(f"({chr(ord('A') + i)})" for i in range(len(example.choices)))
        return example.choices

    @cached_property
    def fingerprint(self) -> str:
        """Identify the examples and settings; the name and the place of the files do not count."""
        rows = [
            [[e.id, e.input, e.output, e.context, e.choices, e.references] for e in split]
            for split in (self.train, self.test)
        ]
        return digest(self.kind, self.labels, self.metrics, self.instruction, self.choices_in_input, rows)


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt; encoded on its own, so that the answers' token spans are exact."""

    role: Role
    text: str


@dataclass(frozen=True)
class Prompt:
    """Segments in reading order, ending just before the answer that a model has to give."""

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The prompt as one string."""
        return "".join(s.text for s in self.segments)


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt, and where in them its answers stand.

    Attributes:
        ids: Token ids, the concatenation of the segments' own ids behind the model's first token (BOS).
        answer_spans: (start, end) of every answer segment, end exclusive.
    """

    ids: tuple[int, ...]
    answer_spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and the continuations whose log-probabilities are asked for."""

    prompt: Prompt
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """An example to be answered, and what may be learnt from: the past of its stream, never itself."""

    example: Example
    past: Sequence[Example]


@dataclass(frozen=True)
class Prediction:
    """What a learner says about one query.

    Attributes:
        example_id: Whose answer it is.
        candidates: The possible answers.
        log_probs: Log-probability in nats of each candidate, as the learner gave it (not normalised).
        probs: Probabilities over the candidates, summing to 1, mixed with a little of the uniform.
        answer: The most probable candidate.
        prompt_tokens: Tokens of the prompt; 0 where no language model was asked.
        seconds: Computing time of the answer, shared evenly by the predictions that were computed together.
        fit_seconds: Computing time of learning anew before this prediction (selectors, baselines).
        demonstrations: Ids of the examples shown, in the order of the prompt.
        dropped: How many chosen demonstrations did not fit the model's context.
    """

    example_id: str
    candidates: tuple[str, ...]
    log_probs: tuple[float, ...]
    probs: tuple[float, ...]
    answer: str
    prompt_tokens: int = 0
    seconds: float = 0.0
    fit_seconds: float = 0.0
    demonstrations: tuple[str, ...] = ()
    dropped: int = 0


@dataclass
class Work:
    """What a model was made to do: requests scored anew, taken from the store, and the time all of them took.

    `seconds` counts reused requests with the time they took when they were scored, so that a resumed run
    reports the cost of an undisturbed one.
    """

    scored: int = 0
    reused: int = 0
    seconds: float = 0.0


class Capability(StrEnum):
    """What a language model can be asked for."""

    SCORE = "score"


class Store(Protocol):
    """Every score once: what is put is on disk when `put` returns, wholly or not at all."""

    def get(self, keys: Sequence[str]) -> dict[str, tuple[FloatArray, float]]:
        """Return (values, seconds) of those keys that are stored."""
        ...

    def put(self, rows: Sequence[tuple[str, FloatArray, float]]) -> None:
        """Store (key, values, seconds) rows in one transaction; a key that is there keeps its first value."""
        ...


class LanguageModel(Protocol):
    """Something that scores continuations of prompts."""

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


class Selector(Protocol):
    """Chooses and orders demonstrations, for a whole task or for each query.

    `per_query` says which: a per-query selector is fitted on all the past at every step of a stream, a
    task-level one again whenever the past has doubled.
    """

    per_query: bool

    def fit(self, pool: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Return a selector that knows `pool`; the one it is called on stays as it is."""
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
