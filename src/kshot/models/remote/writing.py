"""Texts that a model behind an API writes: completions of a text, or of a chat."""

from collections.abc import Mapping
from typing import Any

from kshot.core.errors import ModelError
from kshot.core.types import GenerateRequest, Generation, Prompt
from kshot.models.remote.service import HttpService
from kshot.models.remote.tokenizing import tokenizer_of

CHAT, COMPLETIONS = "/chat/completions", "/completions"
_MOST_STOPS = 4  # that OpenAI takes


async def written(service: HttpService, request: GenerateRequest, *, in_messages: bool) -> Generation:
    """Return what the model writes after a prompt.

    Raises:
        ModelError: The answer has no text.
    """
    body: dict[str, Any] = {"model": service.model, "temperature": request.temperature, "seed": request.seed}
    if request.stop:
        body["stop"] = list(request.stop[:_MOST_STOPS])
    if in_messages:
        most = "max_completion_tokens" if service.is_openai else "max_tokens"
        body |= {"messages": request.prompt.messages, most: request.max_tokens}
    else:
        body |= {"prompt": await _as_sent(service, request.prompt), "max_tokens": request.max_tokens}
    answer = await service.post(CHAT if in_messages else COMPLETIONS, body)
    choice = first_choice(answer)
    said = choice.get("message") if in_messages else choice
    text = said.get("content" if in_messages else "text") if isinstance(said, Mapping) else None
    if not isinstance(text, str):
        raise ModelError(f"'{service.model}' must answer with a text; it answers without one. Take another --model.")
    ends = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    return Generation(text[: min(ends)] if ends else text, bool(ends) or choice.get("finish_reason") != "length")


async def _as_sent(service: HttpService, prompt: Prompt) -> Any:
    tokenizer = await tokenizer_of(service)
    return await tokenizer.prompt_ids(prompt) if tokenizer else prompt.text


def first_choice(answer: Any) -> Mapping[str, Any]:
    """Return the first choice of an answer, or an empty one."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
