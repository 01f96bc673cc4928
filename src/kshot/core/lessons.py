"""What is said about training: how weights change, what is learnt in a step, and what a step reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from kshot.core.errors import ModelError, UserError
from kshot.core.fields import Checked, setting
from kshot.core.objective_settings import Answers, ObjectiveSettings
from kshot.core.types import Example, Prompt

WEIGHTS, OPTIMISERS = ("lora", "full"), ("adamw", "adafactor")
REFERENCES, BACKENDS, ALIGNMENTS = ("anchor", "ema"), ("fd", "exact", "surgery"), ("none", "gate", "pcgrad")
LEARNT = ("answers", "last", "first", "told", "passage", "text")  # of a lesson
_LEARNT_IN_TEXT = ("answers", "last", "first", "later", "passage", "text")


@dataclass(frozen=True)
class Training(Checked):
    """How weights are trained.

    Attributes:
        weights: "lora" trains adapters of low rank on all linear layers; "full" trains copies of all weights but the
            embeddings.
        rank: Rank of the adapters; their output is scaled by 2.
        optimiser: "adamw" (betas 0.9 and 0.999, no weight decay) or "adafactor" (whose `lr` is relative to the size of
            the weights).
        lr: Learning rate, constant.
        clip: Most norm of a step's gradient; 0 does not clip.
        direction: Weight of the guidance that keeps gradients near a reference direction; 0 turns it off.
        magnitude: Weight of the guidance against abnormally large gradients; 0 turns it off.
        reference: The direction: "anchor", the gradient of all that was seen, computed anew every `refresh` steps;
            "ema", the running mean of past gradients.
        backend: How guidance changes a gradient: "fd" by a second pass at displaced weights, "exact" by double
            backward, "surgery" to first order.
        align: What is done with a source task's gradient: "gate" weighs it by its running cosine with the task's,
            "pcgrad" projects conflicts away, "none" leaves it out.
        refresh: Steps between two computations of the anchor.
        warmup: Steps over which the weights of guidance rise from 0.
        encodes_anew: Prompts are other tokens to what is trained, which is small and beside the model.
    """

    weights: str = setting("lora", choices=WEIGHTS)
    rank: int = setting(16, least=1, most=1024)
    optimiser: str = setting("adamw", choices=OPTIMISERS)
    lr: float = setting(3e-4, least=0)
    clip: float = setting(1.0, least=0)
    direction: float = setting(0.0, least=0)
    magnitude: float = setting(0.0, least=0)
    reference: str = setting("anchor", choices=REFERENCES)
    backend: str = setting("fd", choices=BACKENDS)
    align: str = setting("none", choices=ALIGNMENTS)
    refresh: int = setting(5, least=1, most=1_000_000)
    warmup: int = setting(20, least=0, most=1_000_000)

    encodes_anew: ClassVar[bool] = False

    @property
    def displaces(self) -> bool:
        """Whether the weights are displaced a little for a second gradient."""
        return self.backend == "fd" and (self.direction > 0 or self.magnitude > 0)

    @property
    def is_guided(self) -> bool:
        """Whether anything but the plain gradient is used."""
        return self.direction > 0 or self.magnitude > 0 or self.align != "none"


@dataclass(frozen=True)
class Resampling(Training):
    """How a module is trained that reads demonstrations for a model that stays as it is.

    Attributes:
        weights: "resampler" trains nothing else.
        rank: The module's width; 0 is the largest power of two up to 128 with which it is small enough.
        latents: How many vectors stand in place of the demonstrations.
    """

    weights: str = setting("resampler", choices=("resampler",))
    rank: int = setting(0, least=0, most=1024)
    latents: int = setting(16, least=1, most=256)

    encodes_anew = True


@dataclass(frozen=True)
class Pooling(Training):
    """How gates and a map are trained that add to a question what stands before it, with the model as it is.

    Attributes:
        weights: "segment-map" trains nothing else.
        rank: Rank of the map.
    """

    weights: str = setting("segment-map", choices=("segment-map",))


@dataclass(frozen=True)
class Averaging(Checked):
    """How the weights that are trained are averaged along the steps: d times the average, and 1 - d times the weights.

    Attributes:
        decay: d, a step.
        warms_up: After t steps d is (1 + t) / (10 + t), where that is less: the weights before training are soon
            forgotten.

    Source: Tarvainen and Valpola (2017), https://arxiv.org/abs/1703.01780.
    """

    decay: float = setting(0.99, least=0, most=1)
    warms_up: bool = True

    def rate(self, t: int) -> float:
        """Return 1 - d after t steps."""
        return 1 - (min(self.decay, (1 + t) / (10 + t)) if self.warms_up else self.decay)


@dataclass(frozen=True)
class Lesson:
    """What one training sequence is made of.

    Attributes:
        demonstrations: In the order of the prompt.
        target: The example that stands last, with its answer.
        learnt: "answers" learns every answer of the text, "last" the target's alone, "first" the first one alone;
            "told" every answer that something was said before: the first of several only where there is an instruction
            or a note; "passage" the target's and its context; "text" every token.
        weight: How much it counts in the mean over a step.
        teacher: The demonstrations that the teacher is shown before the same target; None: there is no teacher.
        note: What the teacher is told beside the task's instruction, and the student is not; empty: nothing.
        rejected: An answer that is to become less probable than the target's; None: there is none.
        among: The answers that the right one is learnt to be chosen from, by the tokens in which they differ: others
            are not pushed down. Empty: all texts that there are.
        likely: How probable each of `among` is to become, of all texts that there are, instead of the target's answer
            alone: at each of that answer's tokens, the share of those that go on so. Empty: only that answer.
        asked: How the tuner asks it (`Tuner.told`), such as "memory"; empty: as questions are asked.
        teacher_asked: How the teacher is asked in place of that, such as "whole"; empty: as the student.
        instruction: What is said in place of the task's instruction and notes; empty: nothing is; None: the task's own.
        is_apart: Its examples are none of the task's, but of something made up. They are said in the usual words, and
            answers are no choice among the task's labels.
        is_bare: Its target's output is a text that stands alone: nothing else is said, and all of it is learnt.
        advantage: By how much the target's answer did better than expected, below 0 if worse; None: that is not known.
    """

    demonstrations: tuple[Example, ...]
    target: Example
    learnt: str = "answers"
    weight: float = 1.0
    teacher: tuple[Example, ...] | None = None
    rejected: str | None = None
    among: tuple[str, ...] = ()
    likely: tuple[float, ...] = ()
    asked: str = ""
    teacher_asked: str = ""
    instruction: str | None = None
    is_apart: bool = False
    note: str = ""
    is_bare: bool = False
    advantage: float | None = None

    def __post_init__(self):
        _check_taught(self.learnt, self.weight, LEARNT)
        _check_advantage(self.advantage)
        if self.rejected == self.target.output:
            raise UserError(
                f"rejected must be another answer than the target's; got '{self.rejected}' for both (example "
                f"'{self.target.id}'). Leave the lesson out."
            )
        _check_likely(self.likely, self.among)


@dataclass(frozen=True)
class TrainingText:
    """A lesson in words: a prompt that ends with the target's answer.

    Attributes:
        prompt: Ends with the target's answer.
        learnt: As in `Lesson`; what is "told" there is "answers" here, or, where the first of several is not, "later".
        weight: As in `Lesson`.
        teacher: What the teacher reads; ends with the same answer.
        rejected: The same prompt with another answer.
        among: As in `Lesson`, each as it ends a prompt.
        likely: As in `Lesson`.
        reason_weight: How much the reasons that are learnt count together, where its answers count 1; 0: reasons are
            read, not learnt. Their number of tokens does not matter.
        passage: The target's context as it stands in the prompt; needed where it is learnt.
        advantage: As in `Lesson`.
    """

    prompt: Prompt
    learnt: str = "answers"
    weight: float = 1.0
    teacher: Prompt | None = None
    rejected: Prompt | None = None
    among: tuple[str, ...] = ()
    reason_weight: float = 0.0
    passage: str = ""
    likely: tuple[float, ...] = ()
    advantage: float | None = None

    def __post_init__(self):
        _check_taught(self.learnt, self.weight, _LEARNT_IN_TEXT)
        _check_advantage(self.advantage)
        _check_likely(self.likely, self.among)
        if not (isfinite(self.reason_weight) and self.reason_weight >= 0):
            raise UserError(f"reason_weight must be 0 or more; got {self.reason_weight}. Change the composer.")


def _check_taught(learnt: str, weight: float, known: Sequence[str]) -> None:
    if learnt not in known:
        raise UserError(f"learnt must be one of {', '.join(known)}; got '{learnt}'.")
    if not (isfinite(weight) and weight > 0):
        raise UserError(f"weight must be greater than 0; got {weight}.")


def _check_advantage(advantage: float | None) -> None:
    if advantage is not None and not isfinite(advantage):
        raise UserError(
            f"advantage must be a finite number, or None where it is not known; got {advantage}. Check the rewards."
        )


def _check_likely(likely: Sequence[float], among: Sequence[str]) -> None:
    is_distribution = all(p >= 0 for p in likely) and isfinite(sum(likely)) and sum(likely) > 0
    if likely and not (len(likely) == len(among) and is_distribution):
        raise UserError(
            f"likely must have a share, 0 or more, for each of the {len(among)} answers to choose from; got "
            f"{tuple(likely)}. Leave it out where the target's answer alone is right."
        )


@dataclass(frozen=True)
class StepLog:
    """What a step of training reports.

    Attributes:
        loss_nats: What the objective makes small, before the step; of answers the mean over the supervised tokens.
        tokens: Tokens run forward and backward, those of guidance included, and a third of those run forward alone.
        supervised: Tokens of answers that were learnt.
        norm: Of the gradient, before clipping.
        cosine_to_last: Between this gradient and that of the step before; None at first.
        cosine_to_reference: Between the gradient and the reference direction, where there is one.
        cosine_to_source: Between the task's gradient and the source task's, where there is one.
        source_weight: What the source's gradient was multiplied by.
        threshold: The norm above which `magnitude` acts.
        correction: Norm of what guidance adds, relative to the gradient's.
    """

    loss_nats: float
    tokens: int
    supervised: int
    norm: float
    cosine_to_last: float | None = None
    cosine_to_reference: float | None = None
    cosine_to_source: float | None = None
    source_weight: float | None = None
    threshold: float | None = None
    correction: float | None = None


@dataclass(frozen=True)
class Batch:
    """What one step learns.

    Attributes:
        texts: What the objective is about; without any nothing is learnt, and the weights stay as they are.
        support: Texts whose answers' gradient is the anchor; needed by that reference alone.
        source: Texts of the source task, whose answers are learnt; needed by `align` alone.
        objective: What is made small over `texts`.
    """

    texts: Sequence[TrainingText]
    support: Sequence[TrainingText] = ()
    source: Sequence[TrainingText] = ()
    objective: ObjectiveSettings = Answers()


class DivergedError(ModelError):
    """Training has left the finite numbers."""
