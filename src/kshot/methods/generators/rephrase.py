"""Inputs said in other words, with the answer that they had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example
from kshot.methods.generators.intake import NO_CHOICES, Intake, parted
from kshot.methods.generators.writer import UNFIT, Writer, can_be_asked, finished, in_one_line, room_for, votes
from kshot.methods.skill_profile import is_wrong
from kshot.taskmodel.taskmodel import TaskModel

OTHERWISE = "the model answers otherwise"
# A base model goes on as the example does, and a chat model writes what it is shown
ASKED = """Say the text in other words. Keep its meaning.

Text: The train was late again this morning, so I missed my meeting.
In other words: I could not be at my meeting because my train did not come on time today either.

Text: {text}
In other words:"""


@dataclass(frozen=True)
class Rephrase(Writer):
    """Let the model say inputs in other words, and keep those that it still answers as the known ones.

    What a text becomes is asked again after `shots` other examples: where the answer is not the known one, the text
    may mean something else now, and is rejected. In a task with labels or choices that is another label; else it has
    less than a half of the task's metric. Contexts, choices and reasons stay as they are; of an input that lists its
    choices what stands before them is said otherwise. Costs a text and an answer for each draft.

    Attributes:
        near: As for all that write; words may stay, so it is larger here.
        shots: Demonstrations after which a text is answered.
        agree: Whether only texts are kept that the model answers so.

    Source: control of our own; examples that say the same are kept where a model agrees with them as in Wang et al.
    (2022), Self-Instruct, https://arxiv.org/abs/2212.10560, which filters by likeness alone.
    Differs: no new tasks are made, only new inputs of one.
    """

    near: float = setting(0.9, least=0, most=1)
    shots: int = setting(8, least=0, most=1000)
    agree: bool = True

    def draft(
        self, n: int, seeds: Sequence[Example], intake: Intake, *, model: TaskModel, rng: np.random.Generator
    ) -> None:
        """Write `n` texts, of the examples in turn, and take those whose answer stays."""
        order = [seeds[i] for _ in range(-(-n // len(seeds))) for i in rng.permutation(len(seeds))][:n]
        parts = [parted(e, model.task) for e in order]
        for e, part in zip(order, parts, strict=True):
            if part is None:
                intake.reject(e.input, NO_CHOICES)
        asked = [(e, *part) for e, part in zip(order, parts, strict=True) if part]
        texts = [ASKED.format(text=in_one_line(stem)) for _, stem, _ in asked]
        room = room_for([stem for _, stem, _ in asked], model)
        said = self.written(texts, stop=("\n",), max_tokens=room, model=model, rng=rng)
        drafts = []
        for i, text in finished(said, [e.input for e, _, _ in asked], intake):
            seed, _, rest = asked[i]
            draft = replace(seed, input=text + rest if text else "")
            if fault := intake.fault(draft):
                intake.reject(draft.input, fault)
            elif not can_be_asked(draft, (model,)):
                intake.reject(draft.input, UNFIT)
            else:
                drafts.append((draft, seed))
        answers = self._answers(drafts, seeds, model, rng)
        for (draft, seed), answer in zip(drafts, answers, strict=True):
            if is_wrong(model.task, seed, answer):
                intake.reject(draft.input, OTHERWISE)
            else:
                intake.take(draft, [seed])

    def _answers(
        self,
        drafts: Sequence[tuple[Example, Example]],
        seeds: Sequence[Example],
        model: TaskModel,
        rng: np.random.Generator,
    ) -> list[str]:
        """Return the model's answers, or the known ones where it is not asked."""
        if not self.agree:
            return [seed.output for _, seed in drafts]
        apart = [[seed.id] for _, seed in drafts]
        how = {"voters": 1, "shots": self.shots, "apart": apart, "models": (model,), "rng": rng}
        return [answer for (answer,) in votes([draft for draft, _ in drafts], seeds, **how)]
