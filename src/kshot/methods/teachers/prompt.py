"""The teacher is a recipe that shows demonstrations; the student learns to say the same without."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.objective_settings import Answers
from kshot.core.types import Example, Prediction
from kshot.methods.contracts import Teacher
from kshot.methods.knowledge import NOTHING, Knowledge

BY = ("itself", "selector-model")


@dataclass(frozen=True)
class Prompt(Teacher):
    """Let lessons say what a recipe says of them, beside what is known: `distil(random:k=16,contexts=8)`.

    Of labelled examples a lesson makes q = truth x (the known answer) + (1 - truth) x (what the recipe says) likely, of
    unlabelled inputs what the recipe says: the loss is the cross-entropy of q and the student, at the tokens in which
    the answers differ. The answer that is written in the lesson is drawn from q, so that this is the cross-entropy over
    whole answers on average, and exactly that where the first token tells them apart. In open tasks a lesson has the
    known answer with the chance `truth`, else the recipe's text.

    The recipe is asked whenever the past has doubled: about each half of the past as it learns the other half, so that
    it never knows the answer that it is asked for, and about unlabelled inputs as it learns all of the past. What came
    after it was asked is learnt as it is known.

    Attributes:
        by: Whom the recipe asks: "itself" is the model before training, "selector-model" that of `--selector-model`,
            such as a larger one, or one behind an API. What is passed on are answers with their probabilities, or
            texts, so its tokenizer, layout and context can be others.
        truth: How much the known answer counts.
        inputs: The chance that a lesson is about an unlabelled input, where there are some.
        most: Unlabelled inputs that the recipe is asked about for each example of the past, drawn anew each time.

    Source: Hinton et al. (2015), Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531; of
    texts: Kim and Rush (2016), Sequence-Level Knowledge Distillation, https://arxiv.org/abs/1606.07947.
    Differs: what the recipe says is calibrated on the past; no temperature beside that.
    """

    by: str = setting("itself", choices=BY)
    truth: float = setting(0.5, least=0, most=1)
    inputs: float = setting(0.5, least=0, most=1)
    most: int = setting(4, least=1, most=100_000)

    only_chooses = True
    replaces = True
    passes_on = True
    uses_unlabelled = True

    @property
    def objective(self) -> Answers:
        """What is made small; the tuner's counts."""
        return Answers()

    @property
    def hears_selecting(self) -> bool:
        """Whether another model is the teacher."""
        return self.by == "selector-model"

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons with what the recipe says; see `kshot.methods.contracts.Teacher`."""
        said = {name: one for name, one in knowledge.passed_on.items() if one.answer and not one.cut_off}
        inputs, found = [e for e in knowledge.inputs if e.id in said], list[Lesson]()
        for lesson in lessons:
            target = self._target(lesson, inputs, rng)
            found.append(self._about(target, said.get(target.id), lesson, rng))
        return found

    def _target(self, lesson: Lesson, inputs: Sequence[Example], rng: np.random.Generator) -> Example:
        """Return what a lesson is about: its target, or an unlabelled input."""
        if not (inputs and rng.random() < self.inputs):
            return lesson.target
        return inputs[int(rng.integers(len(inputs)))]

    def _about(self, target: Example, said: Prediction | None, lesson: Lesson, rng: np.random.Generator) -> Lesson:
        if said is None:  # it came after the recipe was asked
            return lesson
        truth = self.truth if target.output else 0.0
        if len(said.candidates) < 2:  # a text
            is_known = truth > 0 and rng.random() < truth
            return replace(lesson, target=target if is_known else replace(target, output=said.answer or ""))
        known = np.array([answer == target.output for answer in said.candidates], dtype=np.float64)
        likely = truth * known + (1 - truth) * np.array(said.probs)
        drawn = said.candidates[int(rng.choice(len(likely), p=likely / likely.sum()))]
        return replace(
            lesson, target=replace(target, output=drawn), among=said.candidates, likely=tuple(likely.tolist())
        )
