"""`/v1/decisions` and `/v1/systemone`: questions about an input; what was not learnt is refused, with the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from kshot.core.errors import InvalidInputError
from kshot.core.json_text import to_json
from kshot.core.types import Prediction
from kshot.measures.abstention import confidence as probability_of
from kshot.serve.bodies import RefusedRequestError
from kshot.serve.decision_wire import (
    CachedTokens,
    ChoiceAnswer,
    ChoiceProbability,
    ChoiceQuestion,
    DecisionAnswer,
    DecisionQuestion,
    DecisionRequest,
    DecisionUsage,
    LevelProbability,
    Noul,
    NoulAnswer,
    Predicate,
    PredicateAnswer,
    Refusal,
    Said,
    ScoreAnswer,
    ScoreQuestion,
    SystemOneAnswer,
    SystemOneChoice,
    SystemOneChosen,
    SystemOneQuestion,
    SystemOneRefusal,
    SystemOneRequest,
    SystemOneScored,
    SystemOneUsage,
    TextPart,
    UserMessage,
)
from kshot.serve.questions import Learnt, NotLearntError, Question, confidence, learnt, mean_level
from kshot.serve.served import Served, as_json, tokens_run
from kshot.tasks.inputs import input_of

Decided = (
    tuple[Learnt, Prediction] | str
)  # the question in the model's terms with what it says, or why there is nothing


async def decisions(request: Request, served: Served) -> Response:
    """Answer in the shape of OpenAI's SDK."""
    asked = await served.read(request, DecisionRequest)
    served.check_name(asked.model)
    row = asked.input if isinstance(asked.input, str) else _row(asked.input[0])
    questions = [Question(_options(q), _text(q.instructions), q.name) for q in asked.questions]
    decided, said = await _decide(request, served, row, questions)
    n, cached = tokens_run(said)
    usage = DecisionUsage(input_tokens=n, input_tokens_details=CachedTokens(cached_tokens=cached), total_tokens=n)
    answers = [_decision(q, d) for q, d in zip(asked.questions, decided, strict=True)]
    return as_json(DecisionAnswer(model=served.name, answers=answers, usage=usage))


async def systemone(request: Request, served: Served) -> Response:
    """Answer in the shape of System One."""
    asked = await served.read(request, SystemOneRequest)
    served.check_name(asked.model)
    row = asked.state if isinstance(asked.state, str) else asked.state.model_dump(exclude_none=True)
    questions = [
        Question(
            () if isinstance(q, Noul) else tuple(_level(level) for level in q.criteria),
            _said(q.instructions),
            name,
        )
        for name, q in asked.questions.items()
    ]
    decided, said = await _decide(request, served, row, questions)
    answers = {name: _answer(q, d) for (name, q), d in zip(asked.questions.items(), decided, strict=True)}
    n, _ = tokens_run(said)
    return as_json(SystemOneAnswer(model=served.name, answers=answers, usage=SystemOneUsage(input_tokens=n)))


def _said(instructions: Said) -> str:
    return instructions or "" if isinstance(instructions, str | None) else to_json(instructions)


def _level(level: JsonValue) -> str:
    """Return a level as a label; what is no text is as its JSON, which is none that was learnt."""
    return level if isinstance(level, str) else to_json(level)


async def _decide(
    request: Request, served: Served, row: str | Mapping[str, Any], questions: Sequence[Question]
) -> tuple[list[Decided], list[Prediction]]:
    """Return what is said to each question, and all predictions; those in the same terms are asked once."""
    terms: list[Learnt | str] = []
    for question in questions:
        try:
            term = learnt(served.adapted.task, question)
            if term.extra:  # what it brings must be of use whatever the input is
                input_of(_with("input", term), served.adapted.task, 1)
            terms.append(term)
        except (NotLearntError, InvalidInputError) as error:
            terms.append(str(error))
    rows: list[str | Mapping[str, Any]] = []
    for term in terms:
        if not isinstance(term, str) and (own := _with(row, term)) not in rows:
            rows.append(own)
    said = await served.ask(request, rows) if rows else []
    decided: list[Decided] = []
    for term in terms:
        if isinstance(term, str):
            decided.append(term)
            continue
        prediction = said[rows.index(_with(row, term))]
        if served.adapted.is_unsure(prediction):
            served.counts.abstained()
            decided.append(unsure(served, prediction))
        else:
            decided.append((term, prediction))
    return decided, said


def unsure(served: Served, prediction: Prediction) -> str:
    """Return why there is no answer."""
    abstention = served.adapted.abstention
    assert abstention is not None
    wanted = f"{100 * abstention.precision:g} % of its answers"
    if abstention.threshold is None:
        return f"unsure: of no probability can it be promised that {wanted} are right, so that it answers nothing"
    sure = probability_of(str(prediction.answer), prediction.candidates, prediction.probs)
    return f"unsure: the answer that it would give has the probability {sure:.2f}, too low for {wanted} to be right"


def _with(row: str | Mapping[str, Any], term: Learnt) -> str | Mapping[str, Any]:
    if not term.extra:
        return row
    return ({"input": row} if isinstance(row, str) else dict(row)) | dict(term.extra)


def _row(message: UserMessage) -> str | Mapping[str, Any]:
    """Return the input of a message: its text, or the one row that it holds."""
    if isinstance(message.content, str):
        return message.content
    data = [part.data for part in message.content if not isinstance(part, TextPart)]
    if not data:
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    if len(data) == len(message.content) == 1 and isinstance(data[0], dict):
        return data[0]
    raise RefusedRequestError(
        400,
        "A message with input_json must have one part, an object with 'input'; got others. Send it alone.",
        param="input",
    )


def _text(instructions: str | list[TextPart]) -> str:
    return instructions if isinstance(instructions, str) else "\n".join(part.text for part in instructions)


def _options(question: DecisionQuestion) -> tuple[str | bool, ...]:
    if isinstance(question, Predicate):
        return ()
    if isinstance(question, ChoiceQuestion):
        return tuple(choice.value for choice in question.choices)
    return tuple(level.label for level in question.levels)


def _decision(question: DecisionQuestion, decided: Decided) -> PredicateAnswer | ChoiceAnswer | ScoreAnswer | Refusal:
    name = question.name
    if isinstance(decided, str):
        return Refusal(name=name, reason=decided)
    term, prediction = decided
    probabilities = term.probabilities(prediction)
    if isinstance(question, Predicate):
        return PredicateAnswer(name=name, probability=probabilities[0])
    sure = confidence(probabilities)
    if isinstance(question, ScoreQuestion):
        levels = [
            LevelProbability(value=i, label=level.label, probability=p)
            for i, (level, p) in enumerate(zip(question.levels, probabilities, strict=True))
        ]
        return ScoreAnswer(name=name, score=mean_level(probabilities), confidence=sure, probabilities=levels)
    values = [choice.value for choice in question.choices]
    rows = [ChoiceProbability(value=v, probability=p) for v, p in zip(values, probabilities, strict=True)]
    best = values[term.answered(prediction)]
    return ChoiceAnswer(name=name, choice=best, confidence=sure, probabilities=rows)


def _answer(
    question: SystemOneQuestion, decided: Decided
) -> NoulAnswer | SystemOneChosen | SystemOneScored | SystemOneRefusal:
    if isinstance(decided, str):
        return SystemOneRefusal(reason=decided)
    term, prediction = decided
    probabilities = term.probabilities(prediction)
    if isinstance(question, Noul):
        return NoulAnswer(noul=probabilities[0])
    sure, names = confidence(probabilities), [_level(level) for level in question.criteria]
    if isinstance(question, SystemOneChoice):
        best = names[term.answered(prediction)]
        rows = dict(zip(names, probabilities, strict=True))
        return SystemOneChosen(choice=best, confidence=sure, probabilities=rows)
    return SystemOneScored(
        score=mean_level(probabilities),
        confidence=sure,
        probabilities={str(i): p for i, p in enumerate(probabilities)},
        legend={str(i): name for i, name in enumerate(names)},
    )
