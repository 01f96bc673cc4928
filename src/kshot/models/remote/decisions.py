"""OpenAI's decisions: a choice, a predicate or a score about a text, with a probability for each answer."""

from collections.abc import Mapping
from typing import Any

from kshot.core.types import ScoreRequest
from kshot.models.remote.decision_question import (
    DecisionQuestion,
    DecisionRoute,
    odd_answer,
    of_levels,
    of_predicate,
    question_of,
    reading,
    refusal,
)
from kshot.models.remote.route import Reading, Service


class Decisions(DecisionRoute):
    """Ask one typed question; what the service refuses is read as an answer that says nothing (mass 0).

    The text goes as one string, as vLLM takes no messages but a user's.

    Source: openai SDK 3.57, `client.decisions.create`, https://developers.openai.com/api/reference/resources/decisions;
    vLLM 0.33, vllm/entrypoints/openai/decisions.
    """

    name: str = "decisions"

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation among them all."""
        question = question_of(request)
        body = {"model": service.model, "input": question.state, "questions": [_typed(question)]}
        answer = await service.post("decisions", body)
        answers = answer.get("answers") if isinstance(answer, Mapping) else None
        said = answers[0] if isinstance(answers, list) and len(answers) == 1 else None
        if not isinstance(said, Mapping):
            raise odd_answer(service, answers)
        if said.get("type") == "refusal":
            return refusal(request, said)
        if said.get("type") != question.kind:
            raise odd_answer(service, said.get("type"))
        return reading(service, request, _probabilities(service, question, said))


def _typed(question: DecisionQuestion) -> dict[str, Any]:
    typed: dict[str, Any] = {"type": question.kind, "name": "answer", "instructions": question.instructions}
    if question.kind == "choice":
        typed["choices"] = [{"value": option} for option in question.options]
    elif question.kind == "score":
        typed["levels"] = [{"label": option} for option in question.options]
    return typed


def _probabilities(service: Service, question: DecisionQuestion, said: Mapping[str, Any]) -> Mapping[str, Any]:
    if question.kind == "predicate":
        return of_predicate(service, question, said.get("probability"))
    rows = said.get("probabilities")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise odd_answer(service, rows)
    if question.kind == "score":
        return of_levels(question.options, {str(row.get("value")): row.get("probability") for row in rows})
    return {row["value"]: row.get("probability") for row in rows if isinstance(row.get("value"), str)}
