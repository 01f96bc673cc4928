"""The vocabulary: examples, tasks, prompts, requests and predictions."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import NotFiniteError, UserError
from kshot.core.plugins import resolve
from kshot.core.seeding import digest

FloatArray = NDArray[np.float64]
Kind = Literal["classification", "multi_label", "multiple_choice", "generation", "qa", "math", "parsing"]
KINDS: tuple[Kind, ...] = (
    "classification",
    "multi_label",
    "multiple_choice",
    "generation",
    "qa",
    "math",
    "parsing",
)
LABELLED: tuple[Kind, ...] = ("classification", "multi_label")  # kinds with a closed set of labels
Answer = Literal["most-probable", "median"]  # which of ordered labels is given
Rows = Any  # what holds rows in Python: a data frame, a dataset, a list of mappings, … (`kshot.tasks.objects`)
_SPEAKERS = {"instruction": "system", "demonstration": "user", "query": "user", "answer": "assistant"}
Role = Literal["instruction", "note", "context", "demonstration", "query", "reason", "answer"]


@dataclass(frozen=True)
class Question:
    """What is asked: an example without its output, all that methods and models see of a query."""

    input: str
    id: str
    context: str | None = None
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The input, then the context: an encoder that cuts long texts keeps the input."""
        return f"{self.input}\n{self.context}" if self.context else self.input

    def answered(self, output: str = "") -> "Example":
        """Return an example that asks this; with "" its answer is not known."""
        return Example(self.input, output, self.id, self.context, choices=self.choices, meta=self.meta)


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
    def is_made(self) -> bool:
        """Whether a generator or a loop has made it: it is shown or learnt, and nothing is judged by it."""
        return "made" in self.meta

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the examples that it was made from, as far as that is known."""
        found = self.meta.get("from") if self.is_made else None
        return tuple(map(str, found)) if isinstance(found, list | tuple) else ()

    @property
    def question(self) -> Question:
        """What is asked."""
        return Question(self.input, self.id, self.context, self.choices, self.meta)

    @property
    def text(self) -> str:
        """The text of the question."""
        return self.question.text

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every right answer, the output first."""
        return (self.output, *(r for r in self.references if r != self.output))


def not_made(examples: Sequence[Example]) -> Sequence[Example]:
    """Return the examples by which something may be judged: those that nothing has made, or all where all were made."""
    return [e for e in examples if not e.is_made] or examples


def named_choice(form: str, place: int) -> str:
    """Return how a choice is named where the first one is named `form`: of "(A)" and 2 "(C)", of "1." and 2 "3."."""
    first = next(character for character in form if character.isalnum())
    return form.replace(first, str(place + 1) if first == "1" else chr(ord(first) + place))


@dataclass(frozen=True)
class Task:
    """Labelled examples and what is asked of them.

    Attributes:
        labels: The closed set of outputs, or of what outputs are sets of, known in advance; empty where every row
            brings its own choices.
        ordered: The labels stand in an order, the lowest first, and how far apart two of them are counts.
        answer: Which of ordered labels is given: the most probable one, or the median of their probabilities.
        metrics: Names of metrics, the first is the primary one.
        choices_in_input: The rows' inputs list their choices as "(A) …" and outputs are letters as "(B)".
        worked: Examples beside the stream whose explanations show how answers are found: composers that say reasons can
            show them, and nothing is scored on them. Part of the fingerprint where there are some.
        letter_form: How these letters are written: what names the first choice, such as "(A)", "A", "a)" or "1.".
        positive_label: The label that the metric `f1` counts, if the task names one.
        notes: What was guessed while loading, for the user to read; not part of the fingerprint.
        unlabelled: Inputs whose answers are not known, for methods that can learn from these. Not part of the
            fingerprint, but of what uses them (`unlabelled_fingerprint`).
        columns: Field to column of its files, where guessed or mapped; inputs to predict are read in the same way. Not
            part of the fingerprint.
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
    notes: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    letter_form: str = "(A)"
    worked: tuple[Example, ...] = ()
    unlabelled: tuple[Question, ...] = ()
    ordered: bool = False
    answer: Answer = "most-probable"

    @staticmethod
    def load(
        source: str | Path | Rows,
        *,
        test: str | Path | Rows | None = None,
        columns: Mapping[str, str] | None = None,
        kind: Kind | None = None,
        order: Sequence[Any] | None = None,
        skip_bad_rows: bool = False,
    ) -> "Task":
        """Load a task from a folder, a file, `hf://NAME`, `builtin:NAME` or rows; see `kshot.tasks.load`."""
        load = resolve("kshot.tasks.load:load_task")
        return load(source, test=test, columns=columns, kind=kind, order=order, skip_bad_rows=skip_bad_rows)

    @property
    def is_open(self) -> bool:
        """Whether the answer is a text that has to be generated, instead of one of a row's candidates."""
        return self.kind not in (*LABELLED, "multiple_choice")

    @property
    def is_multi_label(self) -> bool:
        """Whether any number of labels can be right: an output is a set of labels (`kshot.core.label_sets`)."""
        return self.kind == "multi_label"

    def candidates(self, question: Question | Example) -> tuple[str, ...]:
        """Return the answers that a question can have: labels, or the row's letters or choices; none if open.

        Of a multi-label task these are the labels, of which any number can be right.
        """
        if self.kind != "multiple_choice":
            return self.labels
        if self.choices_in_input:
            return tuple(named_choice(self.letter_form, i) for i in range(len(question.choices)))
        return question.choices

    @cached_property
    def fingerprint(self) -> str:
        """Identify the examples and settings; the name and the place of the files do not count."""
        rows = [
            [[e.id, e.input, e.output, e.context, e.choices, e.references, e.explanation, dict(e.meta)] for e in split]
            for split in (self.train, self.test, *([self.worked] if self.worked else []))
        ]
        letters = self.choices_in_input and (self.letter_form if self.letter_form != "(A)" else True)
        more = [self.answer] if self.ordered else []
        if self.positive_label:
            more.append(f"positive {self.positive_label}")
        try:
            return digest(self.kind, self.labels, self.metrics, self.instruction, letters, rows, *more)
        except (TypeError, NotFiniteError) as error:
            raise UserError(
                f"What an example has in `meta` must be JSON: finite numbers, texts, lists, mappings; {error}"
            ) from None

    @cached_property
    def unlabelled_fingerprint(self) -> str | None:
        """Identify the unlabelled inputs in their order, for keys of what uses them; None where there are none."""
        rows = [[q.id, q.input, q.context, q.choices, dict(q.meta)] for q in self.unlabelled]
        return digest(rows) if rows else None


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt; encoded on its own, so that the answers' token spans are exact.

    Attributes:
        spans: Where in the text what is asked stands: ("context" or "question", start, end) in characters.
    """

    role: Role
    text: str
    spans: tuple[tuple[str, int, int], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Prompt:
    """Segments in reading order, ending just before the answer that a model has to give.

    Attributes:
        spells_first_token: The text itself spells the model's first token (BOS), as chat templates do.
    """

    segments: tuple[Segment, ...]
    spells_first_token: bool = False

    @property
    def text(self) -> str:
        """The prompt as one string."""
        return "".join(s.text for s in self.segments)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages, as an API takes them, of a prompt that was written in messages: each segment is one."""
        return [{"role": _SPEAKERS[s.role], "content": s.text} for s in self.segments]


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt, and where in them its answers stand.

    Attributes:
        ids: Token ids, the concatenation of the segments' own ids, after the model's first token (BOS) unless the
            prompt spells it.
        answer_spans: (start, end) of every answer segment, end exclusive.
        reason_spans: Likewise of every reason.
        asked_at: Where the question that is asked begins; the end where there is none.
    """

    ids: tuple[int, ...]
    answer_spans: tuple[tuple[int, int], ...]
    reason_spans: tuple[tuple[int, int], ...] = ()
    asked_at: int = 0


@dataclass(frozen=True)
class ScoreRequest:
    """A prompt and the continuations whose log-probabilities are asked for."""

    prompt: Prompt
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt and how its answer is to be written.

    Attributes:
        max_tokens: The most tokens of the answer.
        stop: The answer ends before the first of these texts; it also ends at the model's own end of text.
        temperature: 0 takes the most probable token at each step; otherwise logits are divided by it and a token is
            drawn.
        seed: For the draws; each request's depend on the seed and its prompt alone.
        allowed: The whole answers that may be given, each with its terminator, as an answer ends where one of them
            is complete; they may be longer than `max_tokens`. Empty allows anything.
    """

    prompt: Prompt
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A generated answer.

    Attributes:
        text: Up to the stop, without it.
        finished: Whether it came to an end within `max_tokens`.
    """

    text: str
    finished: bool


@dataclass(frozen=True)
class Query:
    """An example to be answered, and what may be learnt from: the past of its stream, never itself.

    Attributes:
        wants_text: For open tasks: generate the answer, beside scoring the known one.
        wants_sureness: And say how sure the model is of it (`Prediction.sureness`).
    """

    example: Example
    past: Sequence[Example]
    wants_text: bool = False
    wants_sureness: bool = False


@dataclass(frozen=True)
class Prediction:
    """What a learner says about one query.

    Attributes:
        example_id: Whose answer it is.
        candidates: The possible answers; in open tasks the example's own output, if it has one. In multi-label tasks
            the labels, each of which is right or wrong by itself.
        log_probs: Log-probability in nats of each candidate (not normalised), as the learner gave it or, of a
            calibrated prediction, without the label prior. In multi-label tasks by how many nats each label is rather
            right than wrong.
        probs: Probabilities over the candidates, summing to 1, mixed with a little of the uniform; in open tasks the
            output's raw probability. In multi-label tasks the probability that each label is right.
        answer: The most probable candidate; in open tasks the generated text, or None where none was wanted; in
            multi-label tasks the set of the labels that are probable enough, written as an output.
        prompt_tokens: Tokens of the prompt; 0 where no language model was asked.
        seconds: Computing time of the answer, shared evenly by the predictions that were computed together.
        fit_seconds: Computing time of learning anew before this prediction (selectors, baselines).
        demonstrations: Ids of the examples shown, in the order of the prompt.
        dropped: How many chosen demonstrations did not fit the model's context.
        cut_off: The generated answer came to no end and was cut.
        tokens: Tokens that the language model ran for the answer, shared evenly by the predictions that were computed
            together; as if no other recipe had asked the same.
        setting: In a race of settings the configuration that said it.
        fit_tokens: Tokens it ran to learn before this prediction (selectors, training), as `Cost` counts them.
        contexts: Where several contexts were shown: ids of the examples in each, in the order of its prompt; then
            `demonstrations` are those of the first, and `prompt_tokens` and costs are those of all.
        disagreement: The share of the contexts, or of the members of a combination, whose own answer is another one
            than `answer`; None where one alone was asked.
        found: What the composer has found out about the question before it was asked (`Composer.consider`), such as
            the reason that the model wrote: JSON, one for each context; empty for composers that consider nothing.
        sureness: Of a generated answer, where it was asked for: exp of the mean log-probability of its tokens; None
            where the model tells no probabilities.
        stated: How sure a generated answer says that it is, 0 to 1; None where it does not say.
    """

    example_id: str
    candidates: tuple[str, ...]
    log_probs: Sequence[float]
    probs: Sequence[float]
    answer: str | None
    prompt_tokens: int = 0
    seconds: float = 0.0
    fit_seconds: float = 0.0
    demonstrations: tuple[str, ...] = ()
    dropped: int = 0
    cut_off: bool = False
    tokens: float = 0.0
    fit_tokens: float = 0.0
    setting: str = ""
    contexts: tuple[tuple[str, ...], ...] = ()
    disagreement: float | None = None
    found: tuple[Mapping[str, Any], ...] = ()
    sureness: float | None = None
    stated: float | None = None

    @property
    def packed(self) -> "Prediction":
        """The same with its numbers in arrays, a quarter as large, for those who keep many with many candidates."""
        return replace(self, log_probs=array("d", self.log_probs), probs=array("d", self.probs))
