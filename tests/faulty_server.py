"""A server that fails as servers fail, before an app that does not: which request meets which fault depends on a seed.

A fault is drawn for each time that something is asked, from the seed, what is asked, and how often it was asked before.
So threads and the order of requests change nothing. What ends well is counted, and what has to be paid.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from kshot.core.seeding import generator

Body = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]

BEFORE = ("429", "429 with Retry-After", "500", "503 in HTML", "no answer", "cut before")  # nothing is made, nor paid
HALF = ("cut in the middle", "slow drips", "malformed")  # made, and of no use
CHANGED = ("no choices", "another model", "no log-probabilities", "half the log-probabilities", "no numbers")
ALL = (*BEFORE, *HALF, *CHANGED)


def without_choices(answer: Body) -> Body:
    return answer | {"choices": []}


def of_another_model(answer: Body) -> Body:
    return answer | {"model": "cheaper-one"}


def with_log_probs(answer: Body, change: Callable[[Any], Any]) -> Body:
    return answer | {"choices": [c | {"logprobs": change(c.get("logprobs"))} for c in answer["choices"]]}


def half(log_probs: Any) -> Any:
    return log_probs and {name: values[: len(values) // 2] for name, values in log_probs.items()}


def unknown(log_probs: Any) -> Any:
    return log_probs and {name: [None] * len(values) for name, values in log_probs.items()}


CHANGES: dict[str, Callable[[Body], Body]] = {
    "no choices": without_choices,
    "another model": of_another_model,
    "no log-probabilities": lambda answer: with_log_probs(answer, lambda _: None),
    "half the log-probabilities": lambda answer: with_log_probs(answer, half),
    "no numbers": lambda answer: with_log_probs(answer, unknown),
}


@dataclass
class Faults:
    """An ASGI app before another one.

    Attributes:
        app: What answers where nothing fails.
        seed: For the draws.
        share: Of the requests that meet a fault.
        kinds: What can happen, all equally often.
        words: What the server says where it refuses; a careless one may repeat the key.
        met: How often each fault was met.
        answered: How often each body was answered whole and right.
        billed: Answers that a service charges for, as they say what they took, and their tokens in and out.
        nobody_hears: Whoever asks is dead, which a socket tells late; nothing is counted.
    """

    app: Any
    seed: int = 0
    share: float = 0.3
    kinds: tuple[str, ...] = ALL
    words: str = "try again"
    met: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    billed: Counter[str] = field(default_factory=Counter)
    nobody_hears: bool = False
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or fail."""
        content = await _body(receive)
        key = content.decode() or scope["path"]
        with self._lock:
            fault = self._drawn(key)
            self._asked[key] += 1
        made = bytearray()
        if fault not in BEFORE:
            status = await self._made(scope, content, made)
            answer = json.loads(made) if status == 200 else {}
            if fault in CHANGED and not answer.get("choices"):
                fault = None  # what has no choices has no log-probabilities to lack
        if fault:
            with self._lock:
                self.met[fault] += 1
        if fault in BEFORE:
            await self._refuse(fault, receive, send)
        elif fault in HALF:
            await _break(fault, bytes(made), receive, send)
        else:
            answer = CHANGES[fault](answer) if fault else answer
            await _whole(send, status, json.dumps(answer).encode() if status == 200 else bytes(made))
            if send.__self__.disconnected or self.nobody_hears:
                return  # on a busy machine whoever asked may have given up
            with self._lock:
                self._count(key, answer, is_right=not fault)

    def _drawn(self, key: str) -> str | None:
        rng = generator(self.seed, key, self._asked[key])
        return str(rng.choice(self.kinds)) if rng.random() < self.share else None

    def _count(self, key: str, answer: Body, *, is_right: bool) -> None:
        if "choices" not in answer:
            return
        self.answered[key] += is_right
        usage = answer["usage"]
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        self.billed.update(calls=1, input=usage["prompt_tokens"], cached=cached, output=usage["completion_tokens"])

    async def _made(self, scope: Any, content: bytes, made: bytearray) -> int:
        """Let the app answer; return the status, with the body in `made`."""
        status = 0

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                made.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        return status

    async def _refuse(self, fault: str, receive: Any, send: Any) -> None:
        said = json.dumps({"error": {"message": self.words}}).encode()
        match fault:
            case "429":
                await _whole(send, 429, said)
            case "429 with Retry-After":
                await _whole(send, 429, said, (b"retry-after-ms", b"2"), (b"retry-after", b"1"))
            case "500":
                await _whole(send, 500, said)
            case "503 in HTML":
                page = f"<html><h1>503 Service Unavailable</h1>{self.words}</html>".encode()
                await _whole(send, 503, page, (b"retry-after", b"0"), kind=b"text/html")
            case "no answer":
                await _gone(receive)
            case _:
                send.__self__.transport.abort()  # uvicorn's own


async def _break(fault: str, made: bytes, receive: Any, send: Any) -> None:
    if fault == "malformed":
        await _whole(send, 200, made[: len(made) // 2] + b"\x00}")
        return
    await send(_start(200, len(made)))
    await send({"type": "http.response.body", "body": made[: len(made) // 2], "more_body": True})
    if fault == "slow drips":
        await _drip(made[len(made) // 2 :], receive, send)
    send.__self__.transport.abort()


async def _drip(rest: bytes, receive: Any, send: Any) -> None:
    """Send a byte now and then until nobody listens any more; each comes before a timeout between bytes."""
    gone = asyncio.ensure_future(_gone(receive))
    for byte in rest:
        done, _ = await asyncio.wait([gone], timeout=0.05)
        if done:
            break
        await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
    gone.cancel()


async def _body(receive: Any) -> bytes:
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
    return content


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, length: int, *headers: tuple[bytes, bytes], kind: bytes = b"application/json") -> Any:
    plain = [(b"content-type", kind), (b"content-length", str(length).encode()), *headers]
    return {"type": "http.response.start", "status": status, "headers": plain}


async def _whole(
    send: Send, status: int, content: bytes, *headers: tuple[bytes, bytes], kind: bytes = b"application/json"
) -> None:
    await send(_start(status, len(content), *headers, kind=kind))
    await send({"type": "http.response.body", "body": content, "more_body": False})
