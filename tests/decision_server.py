"""A server of decisions over HTTP, as OpenAI's and System One's: it believes in the label that a text names last."""

from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

import route_servers
from api_server import ApiServer


class DecisionServer(ApiServer):
    """Answers at /v1/decisions and /v1/systemone, and nowhere else."""

    def __init__(self, model: str = "decider"):
        super().__init__(model)
        toy = route_servers.ToyModel()
        paths: dict[str, Any] = {
            "/v1/models": self.models,
            "/v1/decisions": partial(route_servers.decisions, toy),
            "/v1/systemone": partial(route_servers.systemone, toy),
        }
        routes = [Route(path, self._answering(path, made), methods=["GET", "POST"]) for path, made in paths.items()]
        self.app = Starlette(routes=routes)

    @property
    def questions(self) -> list[tuple[str, str]]:
        """The text and the instruction of each decision that was asked for, but those of the first look."""
        bodies = [body for path, body in self.asked if path == "/v1/decisions"]
        asked = [(body["input"], body["questions"][0]["instructions"]) for body in bodies]
        return [(text, instruction) for text, instruction in asked if not text.startswith("Say the word")]
