"""A small server that speaks as OpenAI's do, on a language model that repeats what it has read; it counts requests."""

import asyncio
import contextlib
import itertools
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

JUNK = [f"junk{i}" for i in range(40)]
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


def echoed(tokens: list[str]) -> dict[str, Any]:
    values = [None, *(next_log_prob(tokens[:i], tokens[i]) for i in range(1, len(tokens)))]
    return {"tokens": tokens, "token_logprobs": values}


class ApiServer:
    """Answers at `url`; `asked` has the path and the body of every request, in order.

    Attributes:
        change: Called with path, body and answer; returns another answer (a Response, or JSON).
    """

    def __init__(self, model: str = "repeater"):
        self.model, self.asked = model, list[tuple[str, Any]]()
        self.lacks = {"tokenize"}  # of: completions, echo, chat, logprobs, schema, several, tokenize
        self.headers = list[dict[str, str]]()
        self.change: Callable[[str, Any, Any], Any] = lambda path, body, answer: answer
        paths = {"/v1/models": self.models, "/v1/completions": self.completions, "/v1/chat/completions": self.chat}
        paths["/tokenize"] = self.tokenize
        self.ids = dict[str, int]()
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
        if "completions" in self.lacks:
            return refused(404, "no completions here")
        given = body["prompt"]
        choices, n_in, n_out = [], 0, 0
        for i, one in enumerate([given] if isinstance(given, str) or isinstance(given[0], int) else given):
            tokens = tokens_of(one) if isinstance(one, str) else self.tokens_of_ids(one)
            prompt = "".join(tokens)
            n_in += len(tokens)
            if body.get("echo") and "echo" not in self.lacks:
                choices.append({"index": i, "text": prompt, "logprobs": echoed(tokens), "finish_reason": "length"})
                continue
            text = self.goes_on(prompt)
            n_out += len(tokens_of(text))
            choices.append({"index": i, "text": text, "logprobs": None, "finish_reason": "stop"})
        usage = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
        return {"object": "text_completion", "model": self.model, "choices": choices, "usage": usage}

    def tokenize(self, body: Any) -> Any:
        """Answer as vLLM does: a number for each token, after 0, the beginning of all texts."""
        if "tokenize" in self.lacks:
            return refused(404, "Not Found")
        tokens = [self.ids.setdefault(token, len(self.ids) + 1) for token in tokens_of(body["prompt"])]
        return {"tokens": [0] * body["add_special_tokens"] + tokens, "count": len(tokens)}

    def tokens_of_ids(self, ids: list[int]) -> list[str]:
        known = {0: "", **{number: token for token, number in self.ids.items()}}
        return [known[number] for number in ids]

    def chat(self, body: Any) -> Any:
        if "chat" in self.lacks or ("schema" in self.lacks and "response_format" in body):
            return refused(400, "not supported")
        if "several" in self.lacks and "n" in body:
            return refused(400, "n must be 1")
        options = listed(body["messages"])
        word = self.says(body["messages"], list(options) or named(body["messages"]))
        text, choices = options.get(word, word), []
        for i in range(body.get("n") or 1):
            choices.append({"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"})
            if body.get("logprobs") and "logprobs" not in self.lacks:
                choices[-1]["logprobs"] = {"content": [{"token": text, "top_logprobs": self.tops(text, options, body)}]}
        n_in = sum(len(tokens_of(m["content"])) for m in body["messages"])
        usage = {
            "prompt_tokens": n_in,
            "completion_tokens": len(choices),
            "prompt_tokens_details": {"cached_tokens": 3},
        }
        return {"object": "chat.completion", "model": self.model, "choices": choices, "usage": usage}

    def says(self, messages: list[dict[str, str]], options: list[str]) -> str:
        """The word that it is told, or the answer to the message that has most words in common with the last one."""
        asked = messages[-1]["content"]
        if told := re.search(r"Say the word '(\w+)'", asked):
            return told[1]
        pairs = [(a["content"], b["content"]) for a, b in itertools.pairwise(messages) if b["role"] == "assistant"]
        words = set(asked.split())
        best = max(pairs, key=lambda pair: len(words & set(pair[0].split())), default=None)
        answer = best[1] if best else options[0] if options else "unknown"
        return {letter: text for text, letter in listed(messages).items()}.get(answer, answer)

    def tops(self, said: str, options: dict[str, str], body: Any) -> list[dict[str, Any]]:
        """0.8 on what is said, 0.1 on the other letters together, the rest on nothing of use."""
        others = [letter for letter in options.values() if letter != said]
        rows = [(said, 0.8), *((letter, 0.1 / len(others)) for letter in others)]
        rows += [(junk, 0.1 / len(JUNK)) for junk in JUNK]
        rows = sorted(rows, key=lambda row: -row[1])[: body["top_logprobs"]]
        return [{"token": token, "logprob": math.log(share)} for token, share in rows]

    def goes_on(self, prompt: str) -> str:
        """The rest of the last line that began as this one does."""
        last = prompt.rsplit("\n", 1)[-1]
        lines = [line for line in prompt.split("\n")[:-1] if last and line.startswith(last)]
        return lines[-1][len(last) :] if lines else " unknown"


def listed(messages: list[dict[str, str]]) -> dict[str, str]:
    """The texts that letters stand for, in the order of the letters."""
    return {text: letter for letter, text in re.findall(r"^([A-Z]): (.*)$", messages[0]["content"], re.MULTILINE)}


def named(messages: list[dict[str, str]]) -> list[str]:
    """The texts of which one is to be the answer, where they are told as they are."""
    _, told, texts = messages[0]["content"].partition("as it is written here:\n")
    return texts.split("\n") if told else []


def refused(status: int, words: str) -> Response:
    return JSONResponse({"error": {"message": words, "code": status}}, status)


class _Server(uvicorn.Server):
    """Begins before anything is asked, and ends at once; uvicorn's own ends within two tenths of a second."""

    def __init__(self, app: Any):
        super().__init__(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self.ready = threading.Event()

    async def main_loop(self) -> None:
        self._ended, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.ready.set()
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # in which idle connections are closed

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)


@contextlib.contextmanager
def served(server: ApiServer) -> Iterator[ApiServer]:
    """Serve on a free port of 127.0.0.1, until the end of the block."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # which asyncio must see, to send all at once
        listening.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        running = _Server(server.app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert running.ready.wait(20)
        try:
            yield server
        finally:
            running.end()
            thread.join(2)
