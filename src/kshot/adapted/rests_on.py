"""What the answers of an adapted model rest on: the words of each question, by how strongly the answer follows them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from kshot.core.errors import UserError
from kshot.core.salient_words import Word
from kshot.core.types import Example, Prediction
from kshot.learners.fitted import Fitted
from kshot.methods.contracts import Composer


@dataclass(frozen=True)
class RestsOn:
    """An answer, and the words of its question.

    Attributes:
        example: What was asked.
        answer: What the model has answered.
        words: In reading order, the context's first; each with a value of 0 to 1, where 1 is the word that the answer's
            probability follows most. None where nothing was answered, or other words are said than the question's.
    """

    example: Example
    answer: str
    words: tuple[Word, ...]

    @property
    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        words = [{**asdict(word), "value": round(word.value, 4)} for word in self.words]
        return {"id": self.example.id, "answer": self.answer, "words": words}

    def most(self, n: int) -> list[tuple[str, float]]:
        """Return the words that it rests on most, with their values."""
        best = sorted(self.words, key=lambda word: -word.value)[:n]
        return [(word.text_in(self.example), word.value) for word in best]


def rests_on(fitted: Fitted, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[RestsOn]:
    """Return what each prediction's answer rests on, as it was asked; of several contexts after the first.

    Raises:
        UserError: No language model with weights answers, or several do, or its attention is weighed.
    """
    name = fitted.recipe.name
    if fitted.members or fitted.model is None:
        what = "combines several" if fitted.members else "asks none"
        raise UserError(
            f"What an answer rests on is asked of one language model; '{name}' {what}. Take a run whose model answers "
            "by itself."
        )
    if fitted.task.is_multi_label:
        raise UserError(
            f"What an answer rests on is told of one answer; '{fitted.task.name}' is multi_label, whose answers are "
            "sets of labels. Adapt a task of the label that you ask about."
        )
    if fitted.steering and fitted.steering.spans:
        raise UserError(
            f"What an answer rests on is told by gradients under attention as it is; '{name}' weighs it. Take another "
            "recipe."
        )
    model = fitted.model.noted(fitted.notes)
    model = model.steered(fitted.steering) if fitted.steering else model
    by_id, found = {e.id: e for e in fitted.pool}, list[RestsOn]()
    for e, p in zip(examples, predictions, strict=True):
        asked = model
        if p.found:
            asked = replace(model, composer=cast(Composer, model.composer).knowing(p.found[0]))
        words: tuple[Word, ...] = ()
        if p.answer:
            (words,) = asked.saliency([tuple(by_id[i] for i in p.demonstrations)], [replace(e, output=p.answer)])
        most = max((word.value for word in words), default=0.0) or 1.0
        found.append(RestsOn(e, p.answer or "", tuple(replace(word, value=word.value / most) for word in words)))
    return found
