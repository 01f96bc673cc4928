"""Which questions an adapted model can answer: those that it has learnt, in whatever form they are asked.

A choice or a score is the learnt question if its options are the task's labels, all of them and no others, in any
order. A predicate has nothing that tells it from another one but its words, so these have to be the task's instruction,
or its name the task's name. Of a multiple-choice task each row brings its own choices; there the words count too. Of a
multi-label task each label is a question of its own, so a predicate's name has to be the label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot.core.types import Prediction, Task

_YES_NO = {"yes": "no", "true": "false", "1": "0", "positive": "negative"}


class NotLearntError(Exception):
    """A question that the model has not learnt; the text says why."""


@dataclass(frozen=True)
class Question:
    """A question in whatever form.

    Attributes:
        options: What can be answered, in its order; empty for a predicate. True and False stand for labels that say so.
        instructions: Its words.
        name: What the sender calls it.
    """

    options: tuple[str | bool, ...]
    instructions: str
    name: str | None = None


@dataclass(frozen=True)
class Learnt:
    """The question in the model's own terms.

    Attributes:
        extra: What the row has beside its input.
        places: Of each option among the model's candidates; of a predicate that which makes it true.
    """

    extra: Mapping[str, Any]
    places: tuple[int, ...]

    def probabilities(self, prediction: Prediction) -> list[float]:
        """Return the probability of each option."""
        return [float(prediction.probs[i]) for i in self.places]

    def answered(self, prediction: Prediction) -> int:
        """Return the place of the model's answer among the options: of equals, and of ordered labels, it is its own."""
        return self.places.index(prediction.candidates.index(str(prediction.answer)))


def learnt(task: Task, question: Question) -> Learnt:
    """Return a question in the model's own terms.

    Raises:
        NotLearntError: It has not learnt it.
    """
    if task.is_open:
        raise NotLearntError(
            f"'{task.name}' is of the kind {task.kind}: its answers are written, and no probabilities of options known."
        )
    if task.is_multi_label:
        return _label(task, question)
    if not question.options:
        return _predicate(task, question)
    if task.kind == "multiple_choice":
        _check_words(task, question)
        choices = [str(option) for option in question.options]
        return Learnt({"choices": choices}, tuple(range(len(choices))))
    named: dict[str | bool, int] = {label: i for i, label in enumerate(task.labels)}
    if (true := true_label(task)) is not None:
        (false,) = set(task.labels) - {true}
        named |= {True: named[true], False: named[false]}
    places = tuple(named[option] for option in question.options if option in named)
    if len(places) < len(question.options) or set(places) != set(range(len(task.labels))):
        raise NotLearntError(
            f"It was learnt to choose among {_listed(task.labels)}; these are other options. Ask with all of these, "
            "and no others."
        )
    return Learnt({}, places)


def _label(task: Task, question: Question) -> Learnt:
    if question.options or question.name not in task.labels:
        raise NotLearntError(
            f"'{task.name}' is of the kind multi_label: any number of labels can be right, and none is chosen among "
            f"them. Ask a predicate for each, named as it: {_listed(task.labels)}. Or ask /predict for all."
        )
    return Learnt({}, (task.labels.index(question.name),))


def _predicate(task: Task, question: Question) -> Learnt:
    true = true_label(task)
    if true is None and not task.labels:
        raise NotLearntError("Its choices come with each row. Ask as a choice.")
    if true is None:
        raise NotLearntError(f"It chooses among {_listed(task.labels)}, where none of two says yes. Ask as a choice.")
    _check_words(task, question)
    return Learnt({}, (task.labels.index(true),))


def _check_words(task: Task, question: Question) -> None:
    if question.name == task.name or (task.instruction and _bare(question.instructions) == _bare(task.instruction)):
        return
    ways = f"instructions '{task.instruction}', or " if task.instruction else ""
    raise NotLearntError(
        f"It has learnt one question, and cannot tell this one from others. Ask with {ways}name '{task.name}'."
    )


def true_label(task: Task) -> str | None:
    """Return which of two labels says yes; None where none does."""
    if len(task.labels) != 2:
        return None
    if task.positive_label in task.labels:
        return task.positive_label
    first, second = task.labels
    for yes, no in ((first, second), (second, first)):
        if _YES_NO.get(yes.lower()) == no.lower():
            return yes
    return None


def confidence(probabilities: Sequence[float]) -> float:
    """Return how far the largest of some probabilities is above the uniform: 0 for all alike, 1 for one alone.

    Source: as System One's answers have it.
    """
    uniform = 1 / len(probabilities)
    return min(1.0, max(0.0, (max(probabilities) - uniform) / (1 - uniform)))


def mean_level(probabilities: Sequence[float]) -> float:
    """Return the expected level, counted from 0."""
    return sum(i * p for i, p in enumerate(probabilities))


def _bare(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".:?! ")


def _listed(labels: Sequence[str], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
