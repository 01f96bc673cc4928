"""What the members of a combination have said of a query becomes one answer; along a stream by the past alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.types import Example, Prediction, Query, Task
from kshot.measures.calibration import Calibration
from kshot.measures.probabilities import code_length_bits
from kshot.methods.contracts import Answered, Combiner
from kshot.taskmodel.taskmodel import TaskModel

PARTS = 5  # of the past, that are answered in turn by what the others tell
_SPENT_ON_ANSWERS, _SPENT_ON_LEARNING = ("prompt_tokens", "seconds", "tokens"), ("fit_seconds", "fit_tokens")


@dataclass
class Combining:
    """A combiner on its way along a stream.

    Attributes:
        name: The recipe's, for messages.
        task: What is learnt.
        combiner: As it is before it has seen anything.
        past: What is known of its members.
    """

    name: str
    task: Task
    combiner: Combiner
    past: list[Answered] = field(default_factory=list)

    def remember(self, example: Example, said: Sequence[Prediction]) -> None:
        """Take what the members have said of an example into the past; each is calibrated by its own past."""
        bits = tuple(code_length_bits(self.task, example.output, p) for p in said)
        self.past.append(Answered(example, tuple(said), bits))

    def ready(self, query: Query) -> Combiner:
        """Return the combiner as it is for the next query of the stream, by the past alone."""
        return self.combiner.fit(self.task, self.past).knowing(self.task, query.past)

    def answer(self, query: Query, said: Sequence[Prediction], model: TaskModel | None = None) -> Prediction:
        """Return the answer to the next query of the stream, and take it into the past."""
        found = examined(self.name, self.task, self.ready(query), query, said, model)
        self.remember(query.example, said)
        return found

    def fitted(self, calibrations: Sequence[Calibration]) -> tuple[Combiner, tuple[int, ...]]:
        """Return the combiner as it is handed over, and which of the members it needs.

        Args:
            calibrations: Of the members, as they are handed over.
        """
        combiner, kept = self.combiner.fit(self.task, self.past).kept(len(calibrations))
        return combiner.with_calibrations([asdict(calibrations[i]) for i in kept]), kept


def crossed(
    name: str, task: Task, combiner: Combiner, examples: Sequence[Example], said: Sequence[Sequence[Prediction]]
) -> list[Prediction]:
    """Return the answers to examples of the past, each fifth by how the members do on the others.

    Args:
        name: The recipe's, for messages.
        task: What is learnt.
        combiner: As it is before it has seen anything.
        examples: Those of the stream so far.
        said: What the members say of each as they are handed over, where that is known.
    """
    found = [own[0] for own in said]
    for part in range(min(len(said), PARTS)):
        combining, others = Combining(name, task, combiner), [i for i in range(len(said)) if i % PARTS != part]
        for i in others:
            combining.remember(examples[i], said[i])
        ready = combining.ready(Query(examples[part], tuple(examples[i] for i in others)))
        found[part::PARTS] = [combined(name, task, ready, own) for own in said[part::PARTS]]
    return found


def examined(
    name: str, task: Task, combiner: Combiner, query: Query, said: Sequence[Prediction], model: TaskModel | None
) -> Prediction:
    """Return `combined` by a combiner that asks the model about what was said, if it does; what that takes counts."""
    if model is None or not combiner.examines:
        return combined(name, task, combiner, said)
    asking = replace(model, ledger=model.ledger.part())
    knowing = combiner.examining(query.example.question, said, model=asking)
    whole, cost = combined(name, task, knowing, said), asking.ledger.cost
    return replace(whole, tokens=whole.tokens + cost.tokens, seconds=whole.seconds + cost.seconds)


def combined(name: str, task: Task, combiner: Combiner, said: Sequence[Prediction]) -> Prediction:
    """Return one prediction of those of all members; it costs what it would if only those were asked that it needs.

    Raises:
        ModelError: The combiner returns something else than a prediction.
    """
    combiner, kept = combiner.kept(len(said))
    own = [said[i] for i in kept]
    asked = own
    if combiner.lazy:
        asked = own[:1]
        while len(asked) < len(own) and combiner.asks(task, asked):
            asked = own[: len(asked) + 1]
    whole = combiner.combine(task, asked)
    if not isinstance(whole, Prediction) or not _holds(task, whole):
        raise ModelError(
            f"{name}: a combiner must return a prediction with finite log-probabilities and probabilities that sum to "
            f"1; got {whole!r}"
        )
    return replace(whole, **_costs(asked, own), disagreement=_disagreement(whole, asked))


def _costs(asked: Sequence[Prediction], learnt: Sequence[Prediction]) -> Mapping[str, float]:
    spent = {key: sum(getattr(p, key) for p in asked) for key in _SPENT_ON_ANSWERS}
    return spent | {key: sum(getattr(p, key) for p in learnt) for key in _SPENT_ON_LEARNING}


def _disagreement(whole: Prediction, asked: Sequence[Prediction]) -> float | None:
    """Return the share of the members that say something else."""
    answers = [p.answer for p in asked if p.answer is not None]
    return sum(answer != whole.answer for answer in answers) / len(answers) if len(answers) > 1 else None


def _holds(task: Task, whole: Prediction) -> bool:
    """Return whether a prediction's numbers are what they must be."""
    probabilities = np.array(whole.probs)
    is_one = task.is_open or task.is_multi_label or abs(probabilities.sum() - 1) < 1e-6
    return bool(is_one and np.isfinite([*whole.log_probs, *whole.probs]).all() and (probabilities >= 0).all())
