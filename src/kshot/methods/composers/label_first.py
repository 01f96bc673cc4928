"""Answers before their reasons: what is said of a demonstration's answer cannot bend that of the question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.script import Piece, Script, usual, without_empty_lines
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer
from kshot.methods.reasons import Kept, kept_worked, lacks_reasons, with_worked
from kshot.taskmodel.taskmodel import TaskModel


@dataclass(frozen=True)
class LabelFirst(Composer):
    """Show each demonstration's answer and then its reason; the question is answered at once. An analogue.

    It is the text part of LR-Instruct, whose own inputs have images: labels first and reasons after them, so that a
    faulty reason comes too late to change its label. A question costs what it costs without reasons, beside the tokens
    of those that are shown. In training a target's reason is learnt after its answer, as a second task: a text's loss
    is (L_answer + w L_reason) / (1 + w) of the means over their tokens, w = `reason_weight`.

    Attributes:
        worked: Show the task's worked examples where the chosen ones have no reasons, as many as fit with the question.
        reason_weight: How much a target's reason counts in training where its answer counts 1, whatever their numbers
            of tokens; 0: it is left out.

    Source: Wu et al. (2025), Introducing Visual Scenes and Reasoning: A More Realistic Benchmark for Spoken Language
    Understanding (VRSLU, LR-Instruct), https://arxiv.org/abs/2511.19005; the weight of Hsieh et al. (2023), Distilling
    Step-by-Step!, https://arxiv.org/abs/2305.02301.
    Differs: an analogue without images, profiles and slots; the weight on reasons is ours, as theirs was not found.
    """

    worked: bool = True
    reason_weight: float = setting(1.0, least=0, most=100)  # pyright: ignore[reportIncompatibleMethodOverride]
    _worked: Kept = state(())

    version = 2

    def missing_field(self, task: Task) -> str | None:
        """Return "explanation" where no example has one."""
        return "explanation" if lacks_reasons(task, worked=self.worked) else None

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return a composer that knows the worked examples."""
        return replace(self, _worked=kept_worked(model) if self.worked else ())

    @property
    def shorter(self) -> Self | None:
        """It with one worked example fewer."""
        return replace(self, _worked=self._worked[:-1]) if self._worked else None

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said; see `kshot.methods.contracts.Composer`."""
        return usual(task, with_worked(self._worked, shown), question, "after")

    def taught(self, task: Task, shown: Sequence[Example], target: Example) -> Script:
        """Return what is learnt: the target's answer and then, if it has one, its explanation."""
        said = super().taught(task, shown, target)
        if not (target.explanation and self.reason_weight):
            return said
        reason = Piece("reason", without_empty_lines(target.explanation), target.id)
        return replace(said, pieces=(*said.pieces, reason))
