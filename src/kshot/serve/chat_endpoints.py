"""`/v1/chat/completions`, `/v1/completions` and `/v1/models`: the adapted model as OpenAI's API knows models.

A request's text is the input alone: instruction and demonstrations are the model's own, in the prompts that were
measured. A label counts as one token: its log-probability is the log of its calibrated probability. The answer comes
whole, so a stream has it in one piece.
"""

import time
from collections.abc import Iterator, Sequence
from math import log
from typing import Literal
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kshot.core.json_text import to_json
from kshot.core.types import Prediction
from kshot.measures.abstention import UNSURE
from kshot.serve.bodies import RefusedRequestError
from kshot.serve.chat_wire import (
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    ChatLogprobs,
    ChatRequest,
    CompletionAnswer,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    ModelCard,
    ModelList,
    PromptDetails,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from kshot.serve.decision_endpoints import unsure
from kshot.serve.served import Served, as_json, tokens_run


async def chat(request: Request, served: Served) -> Response:
    """Answer the message of a chat."""
    asked = await served.read(request, ChatRequest)
    served.check_name(asked.model)
    _check_logprobs(served, asked.logprobs)
    content = asked.messages[0].content
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    said = await served.ask(request, [text])
    (prediction,) = said
    usage = _usage(served, said)
    _check_length(served, said, asked.max_completion_tokens or asked.max_tokens)
    logprobs = None
    if served.adapted.is_unsure(prediction):
        served.counts.abstained()
        message = AnswerMessage(content=None, refusal=unsure(served, prediction))
    else:
        message = AnswerMessage(content=prediction.answer)
        logprobs = _chat_logprobs(prediction, asked.top_logprobs or 0) if asked.logprobs else None
    choice = ChatChoice(message=message, finish_reason=_ending(prediction), logprobs=logprobs)
    answer = ChatAnswer(
        id=f"chatcmpl-{uuid4().hex}", created=int(time.time()), model=served.name, choices=[choice], usage=usage
    )
    if not asked.stream:
        return as_json(answer)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return _streamed(_chat_chunks(answer, with_usage))


def _chat_chunks(answer: ChatAnswer, with_usage: bool) -> Iterator[object]:
    (choice,) = answer.choices
    about = {"id": answer.id, "object": "chat.completion.chunk", "created": answer.created, "model": answer.model}
    about |= {"usage": None} if with_usage else {}
    logprobs = choice.logprobs and choice.logprobs.model_dump()
    delta = choice.message.model_dump()
    yield {**about, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]}
    yield {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": choice.finish_reason}]}
    if with_usage:
        yield {**about, "choices": [], "usage": answer.usage.model_dump()}


async def completions(request: Request, served: Served) -> Response:
    """Answer prompts, each of which is an input."""
    asked = await served.read(request, CompletionRequest)
    served.check_name(asked.model)
    _check_logprobs(served, asked.logprobs is not None)
    said = await served.ask(request, [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt)
    usage, choices = _usage(served, said), []
    _check_length(served, said, asked.max_tokens)
    for i, prediction in enumerate(said):
        is_unsure = served.adapted.is_unsure(prediction)
        if is_unsure:
            served.counts.abstained()
        wanted = asked.logprobs is not None and not is_unsure
        choices.append(
            CompletionChoice(
                index=i,
                text=UNSURE if is_unsure else str(prediction.answer),
                finish_reason=_ending(prediction),
                logprobs=_completion_logprobs(prediction, asked.logprobs or 0) if wanted else None,
            )
        )
    answer = CompletionAnswer(
        id=f"cmpl-{uuid4().hex}", created=int(time.time()), model=served.name, choices=choices, usage=usage
    )
    if not asked.stream:
        return as_json(answer)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return _streamed(_completion_chunks(answer, with_usage))


def _completion_chunks(answer: CompletionAnswer, with_usage: bool) -> Iterator[object]:
    about = answer.model_dump(exclude={"choices", "usage"}) | ({"usage": None} if with_usage else {})
    for choice in answer.choices:
        yield {**about, "choices": [choice.model_dump()]}
    if with_usage:
        yield {**about, "choices": [], "usage": answer.usage.model_dump()}


async def models(request: Request, served: Served) -> Response:
    """List the one model."""
    return as_json(ModelList(data=[ModelCard(id=served.name, created=served.since)]))


async def model(request: Request, served: Served) -> Response:
    """Describe a model by its name."""
    if not request.path_params["name"]:  # a slash at the end
        return await models(request, served)
    served.check_name(request.path_params["name"])
    return as_json(ModelCard(id=served.name, created=served.since))


def _streamed(chunks: Iterator[object]) -> Response:
    def lines() -> Iterator[str]:
        for chunk in chunks:
            yield f"data: {to_json(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _ending(prediction: Prediction) -> Literal["stop", "length"]:
    return "length" if prediction.cut_off else "stop"


def _check_logprobs(served: Served, wanted: bool) -> None:
    if wanted and served.adapted.task.is_multi_label:
        raise RefusedRequestError(
            400,
            "logprobs need one label for an answer; this one is a set of labels, each with a probability of its own, "
            "which /predict tells. Leave them out.",
            param="logprobs",
        )
    if wanted and served.adapted.task.is_open:
        raise RefusedRequestError(
            400,
            "logprobs need a task with labels or choices; this one's answers are written, and only the text is known. "
            "Leave them out.",
            param="logprobs",
        )


def _check_length(served: Served, said: Sequence[Prediction], most: int | None) -> None:
    """Refuse to send more than the sender wants for each answer: none is cut."""
    longest = max(_answer_tokens(served, prediction) for prediction in said)
    if most is not None and longest > most:
        raise RefusedRequestError(
            400,
            f"max_tokens must leave room for the answer, which is never cut; it has {longest} tokens, and {most} are "
            f"allowed. Allow {longest} or more.",
            param="max_tokens",
        )


def _answer_tokens(served: Served, prediction: Prediction) -> int:
    """Return the tokens of an answer: one for a label or a choice, which is chosen and not written."""
    model = served.adapted.model
    return model.count_tokens(str(prediction.answer)) if model and served.adapted.task.is_open else 1


def _usage(served: Served, said: Sequence[Prediction]) -> Usage:
    n, cached = tokens_run(said)
    written = sum(_answer_tokens(served, prediction) for prediction in said)
    details = PromptDetails(cached_tokens=cached)
    return Usage(prompt_tokens=n, completion_tokens=written, total_tokens=n + written, prompt_tokens_details=details)


def _ranked(prediction: Prediction, n: int) -> list[tuple[str, float]]:
    """Return the `n` most probable candidates with their log-probabilities."""
    pairs = sorted(zip(prediction.candidates, prediction.probs, strict=True), key=lambda pair: -pair[1])
    return [(text, _log(p)) for text, p in pairs[:n]]


def _log(probability: float) -> float:
    return log(probability) if probability > 0 else -9999.0  # as OpenAI's API writes what is too small


def _answered(prediction: Prediction) -> tuple[str, float]:
    answer = str(prediction.answer)
    return answer, _log(prediction.probs[prediction.candidates.index(answer)])


def _chat_logprobs(prediction: Prediction, n: int) -> ChatLogprobs:
    def shape(text: str, value: float) -> dict[str, object]:
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    top = [TopLogprob.model_validate(shape(*row)) for row in _ranked(prediction, n)]
    return ChatLogprobs(content=[TokenLogprob.model_validate(shape(*_answered(prediction)) | {"top_logprobs": top})])


def _completion_logprobs(prediction: Prediction, n: int) -> CompletionLogprobs:
    text, value = _answered(prediction)
    return CompletionLogprobs(
        tokens=[text], token_logprobs=[value], top_logprobs=[dict(_ranked(prediction, n))], text_offset=[0]
    )
