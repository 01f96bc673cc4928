"""A small server that speaks as OpenAI's do, on a language model that repeats what it has read; it counts requests."""

import contextlib
import math
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

N_WORDS = 1000  # among which what was never read is drawn
SURE = 0.9


def tokens_of(text: str) -> list[str]:
    """A word with the space before it, or another character."""
    return re.findall(r" ?[A-Za-z]+|[^A-Za-z]", text)


def next_log_prob(before: list[str], token: str) -> float:
    """What followed the last time that the last two tokens, or the last one, were read is likely to follow again."""
    for n in (2, 1):
        for at in range(len(before) - n - 1, -1, -1):
            if before[at : at + n] == before[-n:]:
                return math.log(SURE) if before[at + n] == token else math.log((1 - SURE) / N_WORDS)
    return -math.log(N_WORDS)


def echoed(text: str) -> dict[str, Any]:
    tokens = tokens_of(text)
    values = [None, *(next_log_prob(tokens[:i], tokens[i]) for i in range(1, len(tokens)))]
    return {"tokens": tokens, "token_logprobs": values}


class ApiServer:
    """Answers at `url`; `asked` has the path and the body of every request, in order.

    Attributes:
        change: Called with path, body and answer; returns another answer (a Response, or JSON).
    """

    def __init__(self, model: str = "repeater"):
        self.model, self.asked = model, list[tuple[str, Any]]()
        self.headers = list[dict[str, str]]()
        self.change: Callable[[str, Any, Any], Any] = lambda path, body, answer: answer
        paths = {"/v1/models": self.models, "/v1/completions": self.completions}
        routes = [Route(path, self._answering(path, made), methods=["GET", "POST"]) for path, made in paths.items()]
        self.app = Starlette(routes=routes)
        self.url = ""

    @property
    def name(self) -> str:
        return f"openai:{self.url}#{self.model}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(path for path, _ in self.asked)

    def _answering(self, path: str, made: Callable[[Any], Any]) -> Any:
        async def answer(request: Request) -> Response:
            body = await request.json() if request.method == "POST" else None
            self.asked.append((path, body))
            self.headers.append(dict(request.headers))
            found = self.change(path, body, made(body))
            return found if isinstance(found, Response) else JSONResponse(found)

        return answer

    def models(self, body: Any) -> Any:
        return {"object": "list", "data": [{"id": self.model, "object": "model", "max_model_len": 4096}]}

    def completions(self, body: Any) -> Any:
        prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        choices, n_in, n_out = [], 0, 0
        for i, prompt in enumerate(prompts):
            n_in += len(tokens_of(prompt))
            if body.get("echo"):
                choices.append({"index": i, "text": prompt, "logprobs": echoed(prompt), "finish_reason": "length"})
                continue
            text = self.goes_on(prompt)
            n_out += len(tokens_of(text))
            choices.append({"index": i, "text": text, "logprobs": None, "finish_reason": "stop"})
        usage = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
        return {"object": "text_completion", "model": self.model, "choices": choices, "usage": usage}

    def goes_on(self, prompt: str) -> str:
        """The rest of the last line that began as this one does."""
        last = prompt.rsplit("\n", 1)[-1]
        lines = [line for line in prompt.split("\n")[:-1] if last and line.startswith(last)]
        return lines[-1][len(last) :] if lines else " unknown"


@contextlib.contextmanager
def served(server: ApiServer) -> Iterator[ApiServer]:
    """Serve on a free port of 127.0.0.1, until the end of the block."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        running = uvicorn.Server(uvicorn.Config(server.app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.should_exit = running.force_exit = True
            thread.join(5)
