"""What comes in: a body of JSON, no larger and no slower than allowed, of the shape that its endpoint takes."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

MOST_BYTES, MOST_SECONDS = 2**20, 20.0
_READ_ANYWAY = 16  # times as much, without keeping it: who still sends does not see an answer

S = TypeVar("S", bound=BaseModel)


class Shape(BaseModel):
    """What is sent has these fields and no others; a field's description says what to send, as errors repeat it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RefusedRequestError(Exception):
    """A request that is not answered as it was asked.

    Args:
        status: The HTTP status.
        message: What must hold, what was got, what to do.
        param: The place in the body that is meant.
        code: A word for programs, as OpenAI's API has it.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}


async def body_of(request: Request, *, most: int = MOST_BYTES, seconds: float = MOST_SECONDS) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedRequestError: It is no JSON by its own word (415), longer than `most` bytes (413), or not there within
            `seconds` (408).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedRequestError(
            415, f"Content-Type must be application/json; got '{kind[:60]}'. Send JSON, and name it so."
        )
    found, n = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                n += len(chunk)
                if n <= most:
                    found += chunk
                elif n > _READ_ANYWAY * most:
                    break
    except TimeoutError:
        raise RefusedRequestError(
            408,
            f"A body must be sent within {seconds:g} s; {n} bytes of it came. Send all of it.",
            headers={"connection": "close"},
        ) from None
    except ClientDisconnect:
        raise RefusedRequestError(400, "A body must be sent whole; the sender has left. Send all of it.") from None
    if n > most:
        raise RefusedRequestError(
            413,
            f"A body must have {most} bytes at most; this one has more. Send it in parts.",
            headers={"connection": "close"},
        )
    return bytes(found)


def shaped(body: bytes, shape: type[S]) -> S:
    """Return a body as the shape of its endpoint.

    Raises:
        RefusedRequestError: It is no JSON, or of another shape (400); the message names the first place, and has
            nothing of what stands there.
    """
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = max(errors, key=lambda e: len(e["loc"]))  # of several shapes that it could have, that which it is most like
    place = _place(first["loc"])
    if first["type"] == "json_invalid":
        said = first["msg"].removeprefix("Invalid JSON: ")
        raise RefusedRequestError(400, f"The body must be JSON; {said}. Send what a JSON library writes.")
    if first["type"] == "extra_forbidden":
        known = ", ".join(shape.model_fields) if len(first["loc"]) == 1 else "others"
        raise RefusedRequestError(
            400,
            f"There is no field '{place}' here; known: {known}. Leave it out.",
            param=place,
            code="unknown_parameter",
        )
    said = first["msg"].removeprefix("Value error, ").replace(" after validation", "").rstrip(".")
    wanted = _wanted(shape, first["loc"])
    remedy = f"Send {wanted}." if wanted else f"Send the fields {', '.join(shape.model_fields)} (see /openapi.json)."
    raise RefusedRequestError(400, f"'{place}' is not as it must be: {said}. {remedy}", param=place)


def _wanted(shape: type[BaseModel], loc: Sequence[Any]) -> str:
    """Return what to send at a place, as the innermost field around it that has a description says."""
    found, around = "", [shape]
    for part in loc:
        fields = [s.model_fields[part] for s in around if part in s.model_fields]
        if fields:
            found = next((f.description for f in fields if f.description), found)
            around = [s for f in fields for s in _shapes_in(f.annotation)]
        else:  # a place in a list, a key, or which of several shapes is meant
            around = [s for s in around if part in (s.__name__, *_kinds(s))] or around
    return found


def _kinds(shape: type[BaseModel]) -> tuple[Any, ...]:
    """Return the `type` that tells a shape from others."""
    return get_args(shape.model_fields["type"].annotation) if "type" in shape.model_fields else ()


def _shapes_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [shape for part in get_args(annotation) for shape in _shapes_in(part)]


def _place(loc: Sequence[Any]) -> str:
    """Return where something stands in a body, as `questions.0.choices`, without the names of shapes; keys are cut."""
    parts = [str(part)[:40] for part in loc]
    return ".".join(part for part in parts if not (part[:1].isupper() or {"-", "["} & set(part))) or "body"
