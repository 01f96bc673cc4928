"""The model that writes reasons judges their steps: is this one right, + or -?"""

from collections.abc import Sequence
from dataclasses import dataclass

from kshot.core.types import Question
from kshot.measures.probabilities import normalised
from kshot.methods.judges.judge import Judge
from kshot.taskmodel.taskmodel import TaskModel

SIGNS = ("+", "-")
_ASKED = "Say + if the last step is right, and - if it is wrong.\n\n{question}\n\n{steps}\n\nThe last step (+ or -):"


@dataclass(frozen=True)
class PlusMinus(Judge):
    """Score a step by the model's own probability that it is right.

    r_t = P("+" | question, steps 1..t) / (P("+" | …) + P("-" | …)), read after a text of its own, without examples. A
    reason of T steps costs T prompts that share their beginning.

    Source: Wang et al. (2024), Math-Shepherd, section 3.4, https://arxiv.org/abs/2312.08935, and the process reward
    models of RLHFlow, which say + or - after each step.
    Differs: the model that writes the reason judges it, untrained, instead of a reward model; a small one tells little.
    """

    def scores(self, reasons: Sequence[tuple[Question, Sequence[str]]], *, model: TaskModel) -> list[tuple[float, ...]]:
        """Return the probability of + at each step; see `Judge`."""
        prompts = []
        for question, steps in reasons:
            for n in range(1, len(steps) + 1):
                numbered = "\n".join(f"Step {i}: {step}" for i, step in enumerate(steps[:n], 1))
                text = _ASKED.format(question=question.text, steps=numbered)
                prompts.append(model.layout.request(text))
        rows = iter(model.score(prompts, [SIGNS] * len(prompts)) if prompts else [])
        return [tuple(float(normalised(next(rows))[0]) for _ in steps) for _, steps in reasons]
