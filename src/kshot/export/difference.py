"""What a target says of the same questions, against what was measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kshot.core.progress import Progress
from kshot.core.types import Example, FloatArray, Query
from kshot.export.handover import Handover
from kshot.export.target import Reader
from kshot.learners.answering import answering
from kshot.measures.ordered import as_answered
from kshot.measures.probabilities import normalised


@dataclass(frozen=True)
class Difference:
    """How far a target is from kshot, over some inputs.

    Attributes:
        read_by: What has read the export.
        n: Inputs.
        largest_nats: The largest difference of an answer's log-probability, before calibration.
        mean_nats: The mean of these differences.
        largest_probability: The largest difference of a candidate's probability, the candidates' together being 1.
        same_prompts: Inputs whose prompt in the target is the text that kshot's model is asked.
        same_answers: Inputs whose most probable candidate is the same before calibration; None for open tasks.
        as_answered: Inputs whose most probable candidate in the target is what kshot answers with all that it does:
            calibration, several contexts; None for open tasks.
    """

    read_by: str
    n: int
    largest_nats: float
    mean_nats: float
    largest_probability: float
    same_prompts: int
    same_answers: int | None
    as_answered: int | None

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """Return it as a sentence."""
        told = f"{self.read_by} read {self.n} inputs: log-probabilities differ by {self.largest_nats:.2g} nats at most"
        told += f", {self.mean_nats:.2g} on average"
        if self.same_answers is not None:
            told += (
                f". Its most probable answer is kshot's before calibration for {self.same_answers} of {self.n} inputs, "
            )
            told += f"and kshot's final one for {self.as_answered} of {self.n}"
        if self.same_prompts < self.n:
            told += f". Of {self.n} prompts {self.n - self.same_prompts} are not the text that was measured"
        return told + "."


def difference(given: Handover, reader: Reader, examples: Sequence[Example], progress: Progress) -> Difference:
    """Ask kshot and a target the same.

    Args:
        given: What was handed over.
        reader: How the target reads it.
        examples: What is asked, at least one; in open tasks with outputs, whose log-probability is compared.
        progress: Told how far it is.
    """
    raw, answered = _measured(given, examples)
    progress.begin(reader.name, len(examples))
    gaps, shifts, same_prompts, same, n_answered = list[FloatArray](), [], 0, 0, 0
    for example, own, answer in zip(examples, raw, answered, strict=True):
        prompt = reader.prompt(example.question)
        found = reader.log_probs(prompt, [reader.answer(text) for text in given.answers(example)])
        gaps.append(np.abs(found - own))
        shifts.append(np.abs(normalised(found) - normalised(own)).max())
        same_prompts += prompt == given.measured(example.question, as_text=isinstance(prompt, str))
        same += int(np.argmax(found)) == int(np.argmax(own))
        n_answered += int(np.argmax(found)) == answer
        progress.advance(1)
    every, is_open = np.concatenate(gaps), given.task.is_open
    return Difference(
        reader.name,
        len(examples),
        float(every.max()),
        float(every.mean()),
        float(max(shifts)),
        same_prompts,
        None if is_open else same,
        None if is_open else n_answered,
    )


def _measured(given: Handover, examples: Sequence[Example]) -> tuple[list[FloatArray], list[int]]:
    """Return kshot's log-probabilities before any calibration, and the places of its answers with all that it does."""
    fitted = given.fitted
    queries = [Query(e, fitted.pool) for e in examples]
    bare = answering(replace(fitted, recipe=replace(fitted.recipe, calibration="none"))).predict(queries)
    whole = answering(fitted).predict(queries) if fitted.recipe.calibration == "contextual" else bare
    said = [as_answered(fitted.task, fitted.calibration.of(p)) for p in whole]
    answers = [0 if fitted.task.is_open else p.candidates.index(str(p.answer)) for p in said]
    return [np.array(p.log_probs) for p in bare], answers
