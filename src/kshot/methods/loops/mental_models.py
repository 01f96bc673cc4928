"""A teacher who may explain few examples, and picks those whose explanation is predicted to help a student most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from kshot.core.fields import setting
from kshot.core.types import Example, FloatArray, Task
from kshot.methods.contracts import Artefact
from kshot.methods.loops.refine import halves, one_line, worth
from kshot.methods.loops.talking import Talking
from kshot.methods.talk import Talk
from kshot.taskmodel.taskmodel import TaskModel

BY = ("utility", "no-help", "help", "random")
_ASKED = (
    "A student is asked this:\n\n{question}\n\nThe right answer is {answer}. Explain in one sentence how to find it, "
    "so that the student would find such answers too.\nExplanation:"
)


@dataclass(frozen=True)
class MentalModels(Talking):
    """Explain those examples whose explanation is predicted to help most, and say them to the student as notes.

    The student is the model that answers. From a few examples, of which the student's answers without and with an
    explanation are known, two mental models are made: prompts that show questions with the student's answers, and the
    same with explanations. After them the probability that the student says the right answer is read for each other
    example x, without and with what the teacher explains:

        utility(x) = P(right | x, explanation, seen with help) - P(right | x, seen without help).

    The `share` of the examples with the highest utility is explained to the student: each as a note of its question,
    answer and explanation. They are kept where that saves bits on the other half of the examples.

    Attributes:
        share: Of the examples that could be explained, how many are.
        by: What they are picked by: "utility", "no-help" (the student is predicted to need it), "help" (it is
            predicted to be right with it) or "random".
        seen: Examples that the mental models are made of.
        considered: The most examples that could be explained.
        asked: The most examples of the other half that notes are judged on.
        length: The most tokens of an explanation.
        teacher: Who explains: "model", "person", or another model.

    Source: Saha, Hase and Bansal (2023), Can Language Models Teach Weaker Agents? Teacher Explanations Improve
    Students via Theory of Mind, https://arxiv.org/abs/2306.09299.
    Differs: the mental models ask the student's own model; the right answer is not shown in them; explained examples
    become notes, instead of being explained while they are asked; explanations are not chosen by style.
    """

    share: float = setting(0.25, above=0, most=1, least=0)
    by: str = setting(BY[0], choices=BY)
    seen: int = setting(4, least=1, most=100)
    considered: int = setting(32, least=1, most=10_000)
    asked: int = setting(16, least=1, most=10_000)
    length: int = setting(60, least=1, most=10_000)
    teacher: str = "model"

    least = 8
    version = 3
    players: ClassVar[tuple[str, ...]] = ("teacher",)

    @property
    def calls_a_round(self) -> int:
        """An explanation of each example, its probabilities without and with it, and twice the scores of the notes."""
        return 3 * (self.seen + self.considered) + 2 * self.asked

    def suits(self, task: Task) -> bool:
        """Return whether answers are candidates, whose probabilities can be read."""
        return not task.is_open

    def rounds(
        self, examples: Sequence[Example], talk: Talk, *, model: TaskModel, rng: np.random.Generator
    ) -> Iterator[Artefact]:
        """Yield the notes once, as there is one round; see `Talking.rounds`."""
        given, held = halves(examples, rng, self.asked)
        given = given[: self.seen + self.considered]
        known, left = given[: self.seen], given[self.seen :] or given
        reasons = {e.id: self._explained(e, talk) for e in dict.fromkeys((*known, *left))}
        helped = {e.id: with_help(e, reasons[e.id]) for e in given}
        without = _guesses(talk, model, known)
        aided = _guesses(talk, model, [helped[e.id] for e in known])
        alone = _right(talk, model, without, left)
        together = _right(talk, model, aided, [helped[e.id] for e in left])
        order = ranked(together, alone, self.by, rng)[: max(1, round(self.share * len(left)))]
        notes = tuple(_note(left[i], reasons[left[i].id]) for i in order)
        is_better = worth(talk, model.noted(notes), held, "") < worth(talk, model, held, "")
        yield Artefact(notes=notes if is_better else ())

    def _explained(self, example: Example, talk: Talk) -> str:
        asked = _ASKED.format(question=example.text, answer=example.output)
        return talk.ask_for("teacher", asked, one_line, "one sentence", most=self.length)


def with_help(example: Example, explanation: str) -> Example:
    """Return an example whose question has an explanation beside it."""
    return replace(example, input=f"{example.input}\nExplanation: {explanation}")


def ranked(with_help: FloatArray, without: FloatArray, by: str, rng: np.random.Generator) -> list[int]:
    """Return examples in the order in which they are helped.

    Args:
        with_help: The probability that the student is right about each with help, `[n]`.
        without: The same without help.
        by: As the setting of `MentalModels`, or "harm": what helps least comes first, as a check.
        rng: For "random".
    """
    n = len(with_help)
    if by == "random":
        return rng.permutation(n).tolist()
    worth = {"utility": with_help - without, "no-help": -without, "help": with_help, "harm": without - with_help}[by]
    return np.argsort(-worth, kind="stable").tolist()


def accuracy_at(budget: float, order: Sequence[int], with_help: FloatArray, without: FloatArray) -> float:
    """Return how often a student is right where the first of an order are helped.

    Args:
        budget: Which share of them is helped.
        order: As `ranked` returns it.
        with_help: How often the student is right about each with help.
        without: The same without help.
    """
    helped = list(order[: round(budget * len(order))])
    right = np.array(without, float)
    right[helped] = np.asarray(with_help)[helped]
    return float(right.mean())


def _guesses(talk: Talk, model: TaskModel, asked: Sequence[Example]) -> list[Example]:
    """Return what is asked with the student's own answers."""
    found = talk.probabilities(model, [()] * len(asked), asked)
    pairs = zip(asked, found, strict=True)
    return [replace(e, output=model.task.candidates(e)[int(np.argmax(row))], explanation=None) for e, row in pairs]


def _right(talk: Talk, model: TaskModel, shown: Sequence[Example], queries: Sequence[Example]) -> FloatArray:
    return 2.0 ** -talk.bits(model, [shown] * len(queries), queries)


def _note(example: Example, explanation: str) -> str:
    return f"{' '.join(example.text.split())} -> {example.output}: {explanation}"
