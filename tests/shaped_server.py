"""The servers of `route_servers` over HTTP."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import route_servers
from api_server import ApiServer
from kshot.core.errors import RefusedError


class ShapedServer(ApiServer):
    """Answers at the paths of handlers (`route_servers`), and nowhere else."""

    def __init__(self, handlers: Mapping[str, route_servers.Handler], model: str = "toy"):
        super().__init__(model)
        self.toy = route_servers.ToyModel()
        made = {_path(where): partial(handler, self.toy) for where, handler in handlers.items()}
        made["/v1/models"] = self.models
        self.app = Starlette(
            routes=[Route(path, self._answering(path, one), methods=["GET", "POST"]) for path, one in made.items()],
            exception_handlers={RefusedError: _refused},
        )

    @property
    def questions(self) -> list[tuple[str, str]]:
        """The text and the instruction of each decision that was asked for, but those of the first look."""
        bodies = [body for path, body in self.asked if path == "/v1/decisions"]
        asked = [(body["input"], body["questions"][0]["instructions"]) for body in bodies]
        return [(text, instruction) for text, instruction in asked if not text.startswith("Say the word")]


def _path(where: str) -> str:
    return f"/{where.removeprefix('../')}" if where.startswith("../") else f"/v1/{where}"


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": {"message": error.words}}, error.status)


def decision_server() -> ShapedServer:
    """Return a server of decisions, as OpenAI's and System One's."""
    return ShapedServer({"decisions": route_servers.decisions, "systemone": route_servers.systemone}, "decider")
