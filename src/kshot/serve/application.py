"""The application: which path is answered by what."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kshot.serve import chat_endpoints, chat_wire, decision_endpoints, decision_wire, plain_endpoints, plain_wire
from kshot.serve.bodies import RefusedRequestError
from kshot.serve.openapi_document import Path, document
from kshot.serve.outermost import KnownHosts, Logged
from kshot.serve.served import OTHER, Served, endpoint, refused


@dataclass(frozen=True)
class _Place:
    method: str
    path: str
    answer: Callable[[Request, Served], Awaitable[Response]]
    takes: type[BaseModel] | None = None
    gives: type[BaseModel] | str = "text/plain"
    is_open: bool = False


PLACES = (
    _Place(
        "POST",
        "/v1/decisions",
        decision_endpoints.decisions,
        decision_wire.DecisionRequest,
        decision_wire.DecisionAnswer,
    ),
    _Place(
        "POST",
        "/v1/systemone",
        decision_endpoints.systemone,
        decision_wire.SystemOneRequest,
        decision_wire.SystemOneAnswer,
    ),
    _Place("POST", "/v1/chat/completions", chat_endpoints.chat, chat_wire.ChatRequest, chat_wire.ChatAnswer),
    _Place(
        "POST", "/v1/completions", chat_endpoints.completions, chat_wire.CompletionRequest, chat_wire.CompletionAnswer
    ),
    _Place("GET", "/v1/models", chat_endpoints.models, None, chat_wire.ModelList),
    _Place("GET", "/v1/models/{name}", chat_endpoints.model, None, chat_wire.ModelCard),
    _Place("POST", "/predict", plain_endpoints.predict, plain_wire.PredictRequest, plain_wire.PredictAnswer),
    _Place("GET", "/about", plain_endpoints.about, None, plain_wire.About),
    _Place("GET", "/health", plain_endpoints.health, None, plain_wire.Health, is_open=True),
    _Place("GET", "/metrics", plain_endpoints.metrics),
    _Place("GET", "/", plain_endpoints.page, None, "text/html", is_open=True),
)


def application(
    served: Served, *, hosts: tuple[str, ...] | None = None, log: Callable[[str], None] | None = None
) -> Starlette:
    """Return the ASGI application of a model; when it ends, what waits is answered first.

    Args:
        served: The model.
        hosts: The names by which it may be called, so that no page of another site reaches a server of this machine;
            None for any.
        log: Is given a line for each request.
    """
    told = document(
        [
            Path(p.method, p.path, (p.answer.__doc__ or "").strip().rstrip("."), p.takes, p.gives, p.is_open)
            for p in PLACES
        ],
        title=f"kshot serve: {served.name}",
        has_key=served.key is not None,
    )

    async def openapi(request: Request, served: Served) -> Response:
        return JSONResponse(told)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        served.batcher.stop()

    routes = [
        Route(_route(p.path), endpoint(p.path, served, p.answer, is_open=p.is_open), methods=[p.method]) for p in PLACES
    ]
    routes.append(Route("/openapi.json", endpoint("/openapi.json", served, openapi, is_open=True), methods=["GET"]))

    async def not_here(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        served.counts.request(OTHER, error.status_code, 0.0)
        paths = ", ".join(p.path for p in PLACES)
        told: Any = {404: f"There is nothing under this path; there is {paths}. Use one of these."}
        message = told.get(error.status_code, "The path must be asked by another method. See /openapi.json.")
        return refused(RefusedRequestError(error.status_code, message, headers=dict(error.headers or {})))

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            *([Middleware(Logged, log=log)] if log else []),
            *([Middleware(KnownHosts, served=served, hosts=hosts)] if hosts else []),
        ],
        exception_handlers={HTTPException: not_here},
    )


def _route(path: str) -> str:
    """Return a path as it is found, where a model's name may have slashes."""
    return path.replace("{name}", "{name:path}")
