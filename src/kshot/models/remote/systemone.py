"""System One's questions, as decision models are asked on llama.cpp, Ollama, vLLM and SGLang."""

from collections.abc import Mapping
from typing import Any

from kshot.core.types import ScoreRequest
from kshot.models.remote.decision_question import (
    DecisionQuestion,
    DecisionRoute,
    is_number,
    odd_answer,
    of_levels,
    of_predicate,
    question_of,
    reading,
    refusal,
)
from kshot.models.remote.route import Reading, Service

_ID = "answer"


class SystemOne(DecisionRoute):
    """Ask one typed question about a state; yes or no is called noul there.

    vLLM says beside it what its model gives to all labels together, which becomes the mass.

    Source: https://docs.typesafe.ai/api; llama.cpp tools/server/server-decision.cpp, vLLM 0.33
    vllm/entrypoints/generate/structured_decisions.
    """

    name: str = "systemone"

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return the log-probability of each continuation among them all."""
        question = question_of(request)
        body = {"model": service.model, "state": question.state, "questions": {_ID: _typed(question)}}
        answer = await service.post("systemone", body)
        said = _of_question(answer, "answers")
        if said is None:
            raise odd_answer(service, answer)
        if said.get("type") == "refusal":
            return refusal(request, said)
        if said.get("type") != _TYPES[question.kind]:
            raise odd_answer(service, said.get("type"))
        mass = (_of_question(answer, "diagnostics") or {}).get("label_mass")
        probabilities = _probabilities(service, question, said)
        return reading(service, request, probabilities, float(mass) if is_number(mass) and 0 <= mass <= 1 else None)


_TYPES = {"choice": "choice", "predicate": "noul", "score": "score"}


def _typed(question: DecisionQuestion) -> dict[str, Any]:
    typed: dict[str, Any] = {"type": _TYPES[question.kind], "instructions": question.instructions}
    if question.kind == "choice":
        typed["criteria"] = dict.fromkeys(question.options)
    elif question.kind == "score":
        typed["criteria"] = list(question.options)
    return typed


def _of_question(answer: Any, where: str) -> Mapping[str, Any] | None:
    rows = answer.get(where) if isinstance(answer, Mapping) else None
    row = rows.get(_ID) if isinstance(rows, Mapping) else None
    return row if isinstance(row, Mapping) else None


def _probabilities(service: Service, question: DecisionQuestion, said: Mapping[str, Any]) -> Mapping[str, Any]:
    if question.kind == "predicate":
        return of_predicate(service, question, said.get("noul"))
    rows = said.get("probabilities")
    if not isinstance(rows, Mapping):
        raise odd_answer(service, rows)
    return of_levels(question.options, rows) if question.kind == "score" else rows
