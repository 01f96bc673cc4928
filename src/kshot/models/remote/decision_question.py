"""What a decision service is asked: one typed question about a text, whose answer is a probability for each option."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np

from kshot.core.errors import ModelError, UserError
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.models.remote.known import why_wrong
from kshot.models.remote.route import Reading, Service, Takes

MOST_OPTIONS = 255  # of a choice
_YES = ({"yes", "no"}, {"true", "false"})
_MOST_LEVELS = 10  # of a score
_ASKED = "What is the right answer to the input?"
_LAST = "The input shows examples with their answers. Give the answer to the last one."
_SUM_ERROR = 0.02  # by which probabilities that were rounded may miss 1
_LEAST = 1e-6  # what is said of an option whose probability was rounded to 0
_MOST_WORDS = 300  # of a refusal


class DecisionRoute(ABC):
    """What both routes of decisions are: a question about a text in messages, answered for labels in one request."""

    name: str
    trust: Literal["exact", "labels", "sampled"] = "labels"
    in_messages: bool = True
    most: int | None = MOST_OPTIONS

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can."""
        return await why_wrong(self, service)

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations: one request."""
        return Takes()

    @abstractmethod
    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation among them all."""


@dataclass(frozen=True)
class DecisionQuestion:
    """A question of a service of decisions.

    Attributes:
        kind: "choice" of one option; "predicate", whether a statement is true, for the options yes and no or true and
            false; "score", which of ordered levels, for options that are consecutive whole numbers.
        state: The text that it is about.
        instructions: What is asked.
        options: The answers that there are; those of a score in their order.
    """

    kind: Literal["choice", "predicate", "score"]
    state: str
    instructions: str
    options: tuple[str, ...]


def question_of(request: ScoreRequest) -> DecisionQuestion:
    """Return the question that a request in messages stands for.

    Without demonstrations the text is the query's own and the instructions are the task's, as whoever has no examples
    would ask; demonstrations stand in the text before the query, each with its answer.

    Raises:
        UserError: Fewer than 2 options, or more than a choice can have.
    """
    options = tuple(text.strip() for text in request.continuations)
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise UserError(
            f"A decision service chooses among 2 to {MOST_OPTIONS} answers; got {len(options)}. Use fewer labels, or "
            "another --api route."
        )
    opening, turns = _parts(request.prompt)
    if len(turns) > 1:
        blocks = [f"Input: {asked}\nAnswer:{f' {answer}' if answer else ''}" for asked, answer in turns]
        told = f"{opening}\n\n{_LAST}" if opening else _LAST
        return DecisionQuestion("choice", "\n\n".join(blocks), told, options)
    kind, ordered = _kind(options)
    return DecisionQuestion(kind, turns[0][0], opening or _ASKED, ordered)


def _parts(prompt: Prompt) -> tuple[str, list[tuple[str, str]]]:
    """Return the opening of a prompt, and each input with its answer, of which the last is empty."""
    opening, turns = list[str](), list[tuple[str, str]]()
    for segment in prompt.segments:
        if segment.role == "answer" and turns:
            turns[-1] = turns[-1][0], segment.text.strip()
        elif segment.role in ("demonstration", "query"):
            turns.append((segment.text.strip(), ""))
        else:
            opening.append(segment.text.strip())
    return "\n\n".join(opening), turns


def _kind(options: tuple[str, ...]) -> tuple[Literal["choice", "predicate", "score"], tuple[str, ...]]:
    if {option.lower() for option in options} in _YES:
        return "predicate", options
    levels = sorted(options, key=lambda option: int(option)) if all(map(_is_level, options)) else []
    if 3 <= len(levels) <= _MOST_LEVELS and [int(level) - int(levels[0]) for level in levels] == [*range(len(levels))]:
        return "score", tuple(levels)
    return "choice", options


def _is_level(option: str) -> bool:
    return option.isascii() and option.isdecimal()


def reading(
    service: Service, request: ScoreRequest, probabilities: Mapping[str, Any], mass: float | None = None
) -> Reading:
    """Return what a service says of each continuation.

    Args:
        service: Which has said it.
        request: What was asked.
        probabilities: Of each option.
        mass: What the service's model gives to all options together.

    Raises:
        ModelError: An option has no probability, or they are no distribution.
    """
    options = [text.strip() for text in request.continuations]
    missing = next((option for option in options if not is_number(probabilities.get(option))), None)
    if missing is not None:
        raise ModelError(
            f"The decision service of '{service.model}' must give each answer a probability; it gives none to "
            f"'{missing}'. Take another --api route=NAME."
        )
    row = np.array([float(probabilities[option]) for option in options])
    if (row < 0).any() or abs(row.sum() - 1) > _SUM_ERROR:
        raise ModelError(
            f"The probabilities of the decision service of '{service.model}' must sum to 1; they sum to "
            f"{row.sum():.3g}. Take another --api route=NAME."
        )
    return Reading(np.log(np.maximum(row, _LEAST)), mass)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value of an answer is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 <= value <= 1e300


def refusal(request: ScoreRequest, said: Mapping[str, Any]) -> Reading:
    """Return what a service says that refuses to answer: nothing of any option."""
    n, reason = len(request.continuations), said.get("reason")
    words = " ".join(reason.split())[:_MOST_WORDS].rstrip(". ") if isinstance(reason, str) else ""
    return Reading(np.full(n, -np.log(n)), 0.0, words or "without a reason")


def odd_answer(service: Service, got: object) -> ModelError:
    """Return the error of an answer that is not of the question's kind."""
    what = got if isinstance(got, str) else type(got).__name__
    return ModelError(
        f"The decision service of '{service.model}' must answer the question that it is asked; it answers with "
        f"'{what}'. Take another --api route=NAME."
    )


def decision_request(instruction: str, text: str, options: Sequence[str]) -> ScoreRequest:
    """Return the request that asks a service about a text as it is, with a task's instruction and labels."""
    opening = (Segment("instruction", instruction.strip()),) if instruction.strip() else ()
    return ScoreRequest(Prompt((*opening, Segment("query", text)), spells_first_token=True), tuple(options))


def of_levels(options: Sequence[str], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the probability of each level of a score, given those of its places "0", "1", …."""
    return {option: said.get(str(place)) for place, option in enumerate(options)}


def of_predicate(service: Service, question: DecisionQuestion, yes: Any) -> dict[str, float]:
    """Return the probability of each option of a predicate, given that of its being true.

    Raises:
        ModelError: It is no number.
    """
    if not is_number(yes):
        raise odd_answer(service, yes)
    return {option: yes if option.lower() in ("yes", "true") else 1 - yes for option in question.options}
