"""The model that writes reasons judges their steps: is this one right, + or -?"""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.types import Prompt, Question
from kshot.measures.probabilities import normalised
from kshot.methods.judges.judge import Judge
from kshot.prompts.fitting import prompt_tokens
from kshot.taskmodel.taskmodel import TaskModel

SIGNS = ("+", "-")
_ASKED = "Say + if the last step is right, and - if it is wrong.\n\n{question}\n\n{steps}\n\nThe last step (+ or -):"


@dataclass(frozen=True)
class PlusMinus(Judge):
    """Score a step by the model's own probability that it is right.

    r_t = P("+" | question, steps 1..t) / (P("+" | …) + P("-" | …)), read after a text of its own, without examples. A
    reason of T steps costs T prompts that share their beginning. One that does not fit the model gets no scores.

    Source: He et al. (2025), AdaptMI, https://arxiv.org/abs/2505.00147: P("+") of a process reward model.
    Differs: the model that writes the reason judges it, untrained, instead of a reward model; a small one tells little.
    """

    def scores(self, reasons: Sequence[tuple[Question, Sequence[str]]], *, model: TaskModel) -> list[tuple[float, ...]]:
        """Return the probability of + at each step; see `Judge`."""
        room = model.model.max_tokens - max(model.model.count_tokens(model.layout.answer(sign)) for sign in SIGNS)
        asked = [self._prompts(question, steps, model) for question, steps in reasons]
        asked = [some if some and prompt_tokens(some[-1], model.model) <= room else [] for some in asked]
        prompts = [prompt for some in asked for prompt in some]
        rows = iter(model.score(prompts, [SIGNS] * len(prompts)) if prompts else [])
        return [tuple(float(normalised(next(rows))[0]) for _ in some) for some in asked]

    def _prompts(self, question: Question, steps: Sequence[str], model: TaskModel) -> list[Prompt]:
        numbered = [f"Step {i}: {step}" for i, step in enumerate(steps, 1)]
        return [
            model.layout.request(_ASKED.format(question=question.text, steps="\n".join(numbered[:n])))
            for n in range(1, len(steps) + 1)
        ]
