"""Requests to chat completions, as the routes and the writing of texts send them."""

from collections.abc import Mapping, Sequence
from typing import Any

from kshot.core.types import ScoreRequest
from kshot.models.remote.route import Service

CHAT = "/chat/completions"
LENGTH = "length name"  # in the memory of a service: how it calls the most tokens that are written


def chat_body(service: Service, messages: Sequence[Mapping[str, str]], *, max_tokens: int) -> dict[str, Any]:
    """Return the body of a request, to be completed."""
    most = service.memory.get(LENGTH, "max_tokens")
    return {"model": service.model, "messages": list(messages), most: max_tokens}


def choices_of(answer: Any) -> list[Mapping[str, Any]]:
    """Return the choices of an answer, in their order; none where it has none."""
    found = answer.get("choices") if isinstance(answer, Mapping) else None
    rows = [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []
    return sorted(rows, key=lambda row: n if isinstance(n := row.get("index"), int) else 0)


def content_of(choice: Mapping[str, Any]) -> str | None:
    """Return the text of a choice of a chat, or None."""
    said = choice.get("message")
    text = said.get("content") if isinstance(said, Mapping) else None
    return text if isinstance(text, str) else None


def instructed(
    request: ScoreRequest, instruction: str, replies: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """Return the messages of a request with an instruction at the end of the system's, where all requests share it.

    Args:
        request: A prompt that was written in messages.
        instruction: What is said of the answer.
        replies: What the answers of demonstrations are said as.
    """
    messages = [dict(message) for message in request.prompt.messages]
    for message in messages:
        if replies and message["role"] == "assistant":
            message["content"] = replies.get(message["content"].strip(), message["content"])
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{instruction}"
        return messages
    return [{"role": "system", "content": instruction}, *messages]
