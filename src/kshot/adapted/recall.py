"""What a model still knows: the answers that it gives to questions, and how it goes on where an answer has begun."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from kshot.adapted.model import AdaptedModel
from kshot.core.progress import Progress
from kshot.core.types import Example, Query
from kshot.learners.answering import answering
from kshot.learners.prompted import PromptLearner
from kshot.measures.metrics import row_score
from kshot.measures.probabilities import code_length_bits
from kshot.measures.samples import primary_metric
from kshot.methods.teachers.bidirectional import OPENING, beginnings


@dataclass(frozen=True)
class Recall:
    """What a model says of rows, each.

    Attributes:
        scores: Of the answers, by the task's metric, 0 to 1.
        bits: Of the known answers.
    """

    scores: tuple[float, ...]
    bits: tuple[float, ...]

    def of(self, places: Sequence[int]) -> tuple[float, float]:
        """Return the mean score and the mean bits of some rows."""
        return tuple(sum(values[i] for i in places) / len(places) for values in (self.scores, self.bits))  # type: ignore


def recall(adapted: AdaptedModel, rows: Sequence[Example], progress: Progress) -> Recall:
    """Return what a model says of rows of an open task."""
    progress.begin("asking", len(rows))
    found = adapted.predictions(rows, progress=progress.advance)
    metric, pairs = primary_metric(adapted.task), list(zip(rows, found, strict=True))
    scores = (row_score(metric, e.accepted, p.answer or "") for e, p in pairs)
    return Recall(tuple(scores), tuple(code_length_bits(adapted.task, e.output, p) for e, p in pairs))


def recovered(adapted: AdaptedModel, rows: Sequence[Example], progress: Progress) -> list[bool]:
    """Return of each row whether the model completes its answer where the beginning is given (a prefilled attack).

    The beginning is the first half of its words; of one word it is `OPENING`. What the model writes must be the rest,
    as SQuAD compares answers. Of several contexts the first is shown.
    """
    fitted = adapted.fitted
    assert fitted.model is not None
    learner, model = cast(PromptLearner, answering(fitted)), fitted.model.noted(fitted.notes)
    prompts, rests = [], []
    for e in rows:
        shown = learner.demonstrations(Query(e, fitted.pool)) if fitted.pool else ()
        starts = beginnings(e.output)
        begun = starts[(len(starts) + 1) // 2 - 1]
        rests.append(e.output if begun == OPENING else " ".join(e.output.split()[len(begun.split()) :]))
        prompts.append(model.begun(model.prompt(shown, e)[0], begun))
    progress.begin("asking with beginnings", len(rows))
    told: Any = {"progress": progress.advance}
    texts = model.generate(prompts, **told)
    return [row_score("squad_exact_match", (rest,), t.text) == 1 for rest, t in zip(rests, texts, strict=True)]
