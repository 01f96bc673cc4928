"""Words that mislead the student are cut out of its lessons: those that its answer follows, and the teacher's not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.lessons import Lesson
from kshot.core.models import Capability
from kshot.core.salient_words import INPUT, Word
from kshot.core.types import Example, FloatArray, Task
from kshot.methods.knowledge import NOTHING, Knowledge
from kshot.methods.skill_profile import answers_after, is_wrong
from kshot.methods.teachers.context_distillation import Demonstrations
from kshot.taskmodel.taskmodel import TaskModel

BY = ("itself", "selector-model")
Span = tuple[str, int, int]  # a field, and where in its text a span begins and ends


@dataclass(frozen=True)
class Focus(Demonstrations):
    """Distil from the model with demonstrations, on questions as they are and without what misleads the student.

    Where the student gets a new example wrong and the teacher, the model before training with demonstrations, gets it
    right, both are asked which words the known answer rests on: g_j = || dL / de_j ||, the largest over a word's
    tokens, brought to 0..1 over the question's words for each of the two. d = g of the teacher - g of the student,
    brought to 0..1 again; the words with the lowest d are marked. Each span of neighbouring marked words is cut out by
    itself. Beside a lesson about the example stands one without a span, and each time the teacher reads what the
    student reads, after its demonstrations.

    Attributes:
        share: Words are marked up to this quantile of d, and never above 0.5.
        weight: How much a lesson without a span counts beside the one that is whole.
        by: Whose words those of the student are compared with: "itself" is the teacher, "selector-model" the model of
            `--selector-model` with the same demonstrations, such as a larger one. Words are compared by their
            characters, so its tokenizer can be another one. What is learnt is said by the teacher in either case.

    Source: Guo et al. (2025), Learning to Focus (LeaF), https://arxiv.org/abs/2506.07851.
    Differs: the teacher is the same model with demonstrations, in place of a larger one; along a stream, with the
    student as it is when it gets an example wrong; words in place of tokens, so that none is cut in half; a span
    without which the teacher is wrong stays.
    """

    share: float = setting(0.1, least=0.001, most=0.5)
    weight: float = setting(1.0, above=0)
    by: str = setting("itself", choices=BY)

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.ACTIVATIONS})
    sees_mistakes = True

    def suits(self, task: Task) -> bool:
        """Return whether the questions have no list of choices in them, which must stay whole."""
        return not (task.kind == "multiple_choice" and task.choices_in_input)

    def check(self, model: TaskModel, selecting: TaskModel) -> None:
        """Raise a UserError unless there is another model with weights, where it is to be asked."""
        if self.by == "itself":
            return
        other, is_same = selecting.model, selecting.model.fingerprint == model.model.fingerprint
        if is_same or Capability.ACTIVATIONS not in other.capabilities:
            what = "there is none" if is_same else f"'{other.name}' has no weights"
            raise UserError(
                f"focus: by=selector-model asks another model with weights, that of --selector-model; {what}. Name "
                "one, or leave `by` out."
            )

    def compare(
        self,
        seen: Sequence[Example],
        *,
        student: TaskModel,
        before: TaskModel,
        selecting: TaskModel,
        shown: Callable[[], Sequence[Example]],
        rng: np.random.Generator,
    ) -> Any:
        """Return the spans that mislead the student; see `kshot.methods.contracts.Teacher`."""
        new, other = seen[-1], before if self.by == "itself" else selecting
        demos = self._drawn(new, seen, rng)
        if not self._right(other, demos, [new])[0]:
            return None
        (own,), (others,) = student.saliency([tuple(shown())], [new]), other.saliency([demos], [new])
        spans = confounding(own, others, self.share)
        pruned = [(span, e) for span in spans if (e := without(new, span))]
        right = self._right(other, demos, [e for _, e in pruned])
        return [list(span) for (span, _), is_right in zip(pruned, right, strict=True) if is_right] or None

    def lessons(
        self,
        lessons: Sequence[Lesson],
        seen: Sequence[Example],
        *,
        step: int,
        rng: np.random.Generator,
        knowledge: Knowledge = NOTHING,
    ) -> list[Lesson]:
        """Return the lessons, each with one without a span after it; see `kshot.methods.contracts.Teacher`."""
        taught = list[Lesson]()
        for lesson in super().lessons(lessons, seen, step=step, rng=rng, knowledge=knowledge):
            taught.append(lesson)
            if spans := knowledge.found.get(lesson.target.id):
                field, start, stop = spans[int(rng.integers(len(spans)))]
                pruned = without(lesson.target, (field, start, stop))
                if pruned:
                    taught.append(replace(lesson, target=pruned, weight=lesson.weight * self.weight))
        return taught

    def _right(self, model: TaskModel, demos: Sequence[Example], examples: Sequence[Example]) -> list[bool]:
        """Return whether a model is right about each example after demonstrations."""
        if not examples:
            return []
        said = answers_after([demos] * len(examples), examples, model=model)
        return [not is_wrong(model.task, e, text) for e, text in zip(examples, said, strict=True)]


def confounding(student: Sequence[Word], teacher: Sequence[Word], share: float) -> list[Span]:
    """Return the spans of neighbouring words that the student's answer follows more than the teacher's.

    Words of both are compared where they stand at the same characters.

    Args:
        student: What the student's answer rests on.
        teacher: What the teacher's rests on.
        share: The quantile of the difference up to which words are marked.
    """
    known = {(word.field, word.start, word.stop): word.value for word in teacher}
    both = [word for word in student if (word.field, word.start, word.stop) in known]
    if not both:
        return []
    others = np.array([known[word.field, word.start, word.stop] for word in both])
    apart = scaled(scaled(others) - scaled(np.array([word.value for word in both])))
    if not apart.any():  # all alike
        return []
    marked = apart <= min(float(np.quantile(apart, share)), 0.5)
    spans = list[Span]()
    for (is_marked, field), some in groupby(enumerate(both), key=lambda pair: (bool(marked[pair[0]]), pair[1].field)):
        if is_marked:
            words = [word for _, word in some]
            spans.append((field, words[0].start, words[-1].stop))
    return spans


def scaled(values: FloatArray) -> FloatArray:
    """Return values brought to 0..1; all 0 where they are alike."""
    reach = values.max() - values.min()
    return (values - values.min()) / reach if reach > 0 else np.zeros_like(values)


def without(example: Example, span: Span) -> Example | None:
    """Return an example without the characters of a span, and nothing else changed; None where no text is left."""
    field, start, stop = span
    text = example.input if field == INPUT else example.context or ""
    rest = text[:start] + text[stop:]
    if not rest.strip():
        return None
    return replace(example, input=rest) if field == INPUT else replace(example, context=rest)
