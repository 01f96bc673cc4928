"""Texts that a model behind an API writes: completions of a text, or of a chat."""

from collections.abc import Mapping
from typing import Any

from kshot.core.errors import ModelError
from kshot.core.types import GenerateRequest, Generation, Prompt
from kshot.models.remote.chatting import CHAT, chat_body, choices_of
from kshot.models.remote.route import Service
from kshot.models.remote.tokenizing import tokenizer_of

COMPLETIONS = "/completions"
_MOST_STOPS = 4  # that OpenAI takes
_CUT = ("length", "content_filter")  # why a text ends that has not come to its end


async def written(service: Service, request: GenerateRequest, *, in_messages: bool) -> Generation:
    """Return what the model writes after a prompt.

    Raises:
        ModelError: The answer has no text.
    """
    if in_messages:
        body = chat_body(service, request.prompt.messages, max_tokens=request.max_tokens)
    else:
        prompt = await _as_sent(service, request.prompt)
        body = {"model": service.model, "prompt": prompt, "max_tokens": request.max_tokens}
    body |= {"temperature": request.temperature, "seed": request.seed}
    if request.stop:
        body["stop"] = list(request.stop[:_MOST_STOPS])
    choices = choices_of(await service.post(CHAT if in_messages else COMPLETIONS, body))
    choice: Any = choices[0] if choices else {}
    said = choice.get("message") if in_messages else choice
    text = said.get("content" if in_messages else "text") if isinstance(said, Mapping) else said
    if text is None and isinstance(said, Mapping):  # what it says in place of an answer that it refuses
        text = said.get("refusal")
    is_cut = choice.get("finish_reason") in _CUT
    if text is None and is_cut:  # before it began, as where thoughts took all tokens, or a filter took the text
        text = ""
    if not isinstance(text, str) or text is said:
        raise ModelError(f"'{service.model}' must answer with a text; it answers without one. Take another --model.")
    ends = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    return Generation(text[: min(ends)] if ends else text, bool(ends) or not is_cut)


async def _as_sent(service: Service, prompt: Prompt) -> Any:
    tokenizer = await tokenizer_of(service)
    return await tokenizer.prompt_ids(prompt) if tokenizer else prompt.text
