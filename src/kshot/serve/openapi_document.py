"""The document of the server, in OpenAPI 3.1, made of the shapes that check requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kshot.core.version import __version__
from kshot.serve.plain_wire import Error

_REFUSALS = {
    400: "The request is not as it must be.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    415: "The body is no JSON by its own word.",
    429: "Too much waits; Retry-After says for how long.",
    502: "A service behind the model fails.",
    503: "The server is ending.",
}
_REF = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Path:
    """An endpoint: what it takes and gives; a shape, or the name of another kind of content."""

    method: str
    path: str
    summary: str
    takes: type[BaseModel] | None
    gives: type[BaseModel] | str
    is_open: bool


def document(paths: Sequence[Path], *, title: str, has_key: bool) -> dict[str, Any]:
    """Return the document.

    Args:
        paths: The endpoints.
        title: Of the server.
        has_key: Whether a key is needed where a path is not open.
    """
    taken: Any = [(p.takes, "validation") for p in paths if p.takes]
    given: Any = [(p.gives, "serialization") for p in paths if not isinstance(p.gives, str)]
    _, schemas = models_json_schema([*taken, *given, (Error, "serialization")], ref_template=_REF)
    keyed = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if has_key else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": {p.path: {p.method.lower(): _operation(p, has_key)} for p in paths},
        "components": {"schemas": schemas["$defs"], **keyed},
    }


def _operation(path: Path, has_key: bool) -> dict[str, Any]:
    refusals: dict[int, str] = {**_REFUSALS} if path.takes else {}
    named = path.path.count("{")
    if named:
        refusals = {404: _REFUSALS[404]}
    if has_key and not path.is_open:
        refusals[401] = "The key is missing."
    gives = {"text/plain": {}} if path.gives == "text/plain" else {"text/html": {}}
    if not isinstance(path.gives, str):
        gives = {"application/json": {"schema": _ref(path.gives)}}
    if path.takes and "stream" in path.takes.model_fields:
        gives["text/event-stream"] = {}
    answers = {"200": {"description": "The answer.", "content": gives}}
    error = {"application/json": {"schema": _ref(Error)}}
    answers |= {str(s): {"description": text, "content": error} for s, text in sorted(refusals.items())}
    found: dict[str, Any] = {"summary": path.summary, "responses": answers}
    if path.takes:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(path.takes)}}}
    if named:
        found["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if has_key and not path.is_open:
        found["security"] = [{"key": []}]
    return found


def _ref(shape: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=shape.__name__)}
