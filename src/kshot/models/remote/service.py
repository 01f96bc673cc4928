"""A model's server over HTTP: requests that are sent again where that can help, paced, and counted.

OpenAI's own server is asked through its SDK, every other one by plain HTTP. Keys come from the environment alone, and
no message repeats them. A path follows the base URL; one that begins with "../" is beside it, as of `http://host/v1`
"../tokenize" is `http://host/tokenize`.
"""

import asyncio
import logging
import os
import re
import weakref
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from threading import Thread
from typing import Any, Self
from urllib.parse import urljoin

from kshot.core.api_settings import Address, ApiSettings
from kshot.core.errors import ModelError, NoAnswerError, RefusedError, UserError, in_short, missing_extra
from kshot.core.json_text import from_json, to_json
from kshot.core.ledger import Cost
from kshot.core.version import __version__
from kshot.models.remote.chatting import LENGTH, choices_of
from kshot.models.remote.pacing import Pace, retry_after

OPENAI_KEY, OTHER_KEY = "OPENAI_API_KEY", "KSHOT_API_KEY"
FREE = ("../tokenize", "../apply-template")  # paths whose answers nobody pays
_FOR_GOOD = (501, 505)  # of the answers from 500 on, those that asking again does not change
_AGAIN = (408, 409, 425, 429)
_TELLS = 8  # characters of a key's beginning that are hidden too
_VERSION = re.compile(r"|[:@].+|-\d{4}|-\d{8}|-\d{4}-\d\d-\d\d")  # after a model's name
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True)
class Usage:
    """What answers took: requests that were answered, and tokens; `cached` are those of the input that cost less."""

    calls: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        mine, others = vars(self).values(), vars(other).values()
        return Usage(*(a + b for a, b in zip(mine, others, strict=True)))

    @property
    def cost(self) -> Cost:
        """The calls, as the ledger counts what is paid."""
        return Cost(calls=self.calls, input_tokens=self.input, cached_tokens=self.cached, output_tokens=self.output)


class _AgainError(Exception):
    """An answer that may be another one when it is asked again.

    Attributes:
        after: When, in seconds, if the server says so.
        is_there: Whether there was a connection to it.
    """

    def __init__(self, why: str, after: float | None = None, *, is_there: bool = True):
        super().__init__(why)
        self.after, self.is_there = after, is_there


def loop() -> asyncio.AbstractEventLoop:
    """Return the event loop, in a thread of its own, in which all servers are asked."""
    return _loop_of(os.getpid())


@cache  # a process that was forked has not the thread of its parent's, which is kept, as it shares what that waits for
def _loop_of(process: int) -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    Thread(target=made.run_forever, name="kshot-api", daemon=True).start()
    return made


@dataclass(frozen=True)
class _Open:
    """What requests go through: a client, the SDK of OpenAI's own server on it, and room for so many at once."""

    http: Any
    sdk: Any
    room: asyncio.Semaphore


class _Line:
    """What all copies of a service have in common to send requests, opened once in each process.

    A process that was forked sees its parent's connections, and neither uses nor closes them.

    Args:
        settings: How the server is asked.
        headers: Of every request.
        pace: Told of every answer.
        sdk: Makes the SDK, given a client.
    """

    def __init__(
        self, settings: ApiSettings, headers: Mapping[str, str], pace: Pace, sdk: Callable[..., Any] | None = None
    ):
        self._settings, self._headers, self._pace, self._sdk = settings, headers, pace, sdk
        self._known = dict[int, _Open]()

    @property
    def opened(self) -> _Open:
        """What this process sends through."""
        process = os.getpid()
        if process not in self._known:
            http = _client(self._settings, self._headers, self._pace)
            sdk = self._sdk(http_client=http) if self._sdk else None
            self._known[process] = _Open(http, sdk, asyncio.Semaphore(self._settings.concurrency))
            weakref.finalize(self, _close, http, process)
        return self._known[process]


def _client(settings: ApiSettings, headers: Mapping[str, str], pace: Pace) -> Any:
    import httpx2

    class Client(httpx2.AsyncClient):
        """Ends an answer that comes in slow drips too, which a timeout between its bytes does not."""

        async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
            try:
                async with asyncio.timeout(settings.timeout):
                    return await super().send(request, **how)
            except TimeoutError:
                raise httpx2.ReadTimeout(f"no whole answer in {settings.timeout:g} s", request=request) from None

    async def heard(response: httpx2.Response) -> None:
        pace.hear(response.status_code, response.headers)

    return Client(
        verify=_trusted(),
        headers=headers,
        timeout=httpx2.Timeout(settings.timeout),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency),
        event_hooks={"response": [heard]},
    )


def _close(http: Any, process: int) -> None:
    """Close a client in the process that has opened it."""
    if process == os.getpid():
        asyncio.run_coroutine_threadsafe(http.aclose(), loop())


class HttpService:
    """A server and the model that is asked there (`kshot.models.remote.route.Service`).

    Args:
        address: Of the model.
        settings: How it is asked.

    Attributes:
        url: The base URL.
        memory: What was learnt of the server, shared with `metered` copies.
        usage: What answers since `metered` took, also to services that were metered from this one.
        wasted: What those took that were of no use.

    Raises:
        UserError: A missing package, no key for OpenAI's own server, or a key that is none.
    """

    def __init__(self, address: Address, settings: ApiSettings):
        try:
            import httpx2  # noqa: F401 - used where requests are sent
            import stamina  # noqa: F401 - likewise
        except ImportError as error:
            raise missing_extra(error.name or "httpx2", "api", f"The model '{address.name}'") from None
        logging.getLogger("stamina").addHandler(logging.NullHandler())  # what is asked again ends well, or is said
        self.model, self.usage, self.wasted = address.model, Usage(), Usage()
        self._above: HttpService | None = None
        self._before_call: Callable[[], None] = lambda: None
        self.is_openai = address.url is None
        self.url = address.base_url
        self.key_name = OPENAI_KEY if self.is_openai else OTHER_KEY
        self._key = os.environ.get(self.key_name, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"The key in {self.key_name} must be ASCII without control characters; it is not (and is not shown). "
                "Copy it again."
            )
        if self.is_openai and not self._key:
            raise UserError(f"'{address.name}' needs a key of OpenAI in the environment. Set {OPENAI_KEY}.")
        own: dict[str, Any] = {"tokenizer": "none", LENGTH: "max_completion_tokens"}
        self.memory = own if self.is_openai else dict[str, Any]()
        self._attempts, self._pace = settings.retries + 1, Pace()
        headers = {"User-Agent": f"kshot/{__version__}", "Authorization": f"Bearer {self._key}"}
        headers = headers if self._key else {"User-Agent": headers["User-Agent"]}
        self._line = _Line(settings, headers, self._pace, self._openai_sdk() if self.is_openai else None)

    def _openai_sdk(self) -> Callable[..., Any]:
        """Return what makes OpenAI's SDK, given a client."""
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise missing_extra("openai", "api", f"The model 'openai:{self.model}'") from None
        return partial(AsyncOpenAI, api_key=self._key, base_url=self.url)

    def metered(self, *, attempts: int | None = None, before_call: Callable[[], None] | None = None) -> Self:
        """Return the same service, which counts from nothing.

        Args:
            attempts: How often it sends a request, where that is less often than before.
            before_call: Called before each request that is paid, also when it is sent again; may raise.
        """
        other = copy(self)
        other.usage, other.wasted, other._above = Usage(), Usage(), self
        other._attempts = min(attempts or self._attempts, self._attempts)
        other._before_call = before_call or self._before_call
        return other

    def waste(self) -> None:
        """Count as of no use what was answered so far: it will be asked again."""
        self.usage, self.wasted = Usage(), self.wasted + self.usage

    def _count(self, usage: Usage, *, is_of_use: bool) -> None:
        service: HttpService | None = self
        while service is not None:
            if is_of_use:
                service.usage += usage
            else:
                service.wasted += usage
            service = service._above

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that the server answers to a POST of `body` at `path`.

        What is no JSON, has no choices where there should be some, or is another model's, is asked again. An answer
        with 200 can be an error too, as where a gateway hands on what failed behind it.

        Raises:
            RefusedError: The server refuses the request, in its own words.
            ModelError: It says an error, and not of what kind.
            NoAnswerError: It cannot be reached, or answers nothing of use, after all retries.
            UserError: It does not take the key.
        """
        return await self._persistently("POST", path, body)

    async def get(self, path: str) -> Any:
        """Return the JSON at `path`; as `post`."""
        return await self._persistently("GET", path, None)

    async def _persistently(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        import stamina

        def again(error: Exception) -> bool | float:
            if not isinstance(error, _AgainError):
                return False
            return True if error.after is None else error.after

        is_paid = method == "POST" and path not in FREE
        waits: Any = {"wait_initial": _FIRST_WAIT_S, "wait_max": _LONGEST_WAIT_S, "wait_jitter": _FIRST_WAIT_S}
        try:
            async for attempt in stamina.retry_context(again, attempts=self._attempts, timeout=None, **waits):
                with attempt:
                    await self._pace.turn()
                    async with self._line.opened.room:
                        if is_paid:
                            self._before_call()
                        content = await self._sent(method, path, body)
                    return self._checked(content, path, is_paid=is_paid)
        except _AgainError as error:
            raise NoAnswerError(
                f"{self.url} must answer for '{self.model}'; after {self._attempts} attempts {error}. Look whether it "
                "is there and what it logs, then run the same command again: what was answered is kept.",
                is_there=error.is_there,
            ) from None
        raise AssertionError("a context of retries ends with a result or an error")

    async def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        """Send a request once (through the SDK as often as it tries), and return what is answered with 200."""
        import httpx2

        try:
            if self.is_openai:
                status, headers, content = await self._by_sdk(method, path, body)
            else:
                content_type = {} if body is None else {"Content-Type": "application/json"}
                data = None if body is None else to_json(body).encode()
                url = urljoin(f"{self.url}/", path.lstrip("/"))
                answer = await self._line.opened.http.request(method, url, content=data, headers=content_type)
                status, headers, content = answer.status_code, answer.headers, answer.content
        except httpx2.TransportError as error:
            is_there = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise _AgainError(f"it was not reached: {self._hidden(in_short(error))}", is_there=is_there) from None
        except httpx2.HTTPError as error:  # such as a body that cannot be decoded
            raise _AgainError(f"its answer could not be read: {self._hidden(in_short(error))}") from None
        if 200 <= status < 300:
            return content
        raise self._refusal(status, headers, content, path)

    async def _by_sdk(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        import httpx2
        import openai

        sdk = self._line.opened.sdk
        try:
            how: Any = {"cast_to": httpx2.Response, "options": {"max_retries": self._attempts - 1}}
            answer = await (sdk.get(path, **how) if body is None else sdk.post(path, body=body, **how))
            return answer.status_code, answer.headers, answer.content
        except openai.APIStatusError as error:
            return error.response.status_code, error.response.headers, error.response.content
        except openai.APIConnectionError as error:  # it has tried often enough
            raise NoAnswerError(
                f"{self.url} must answer for '{self.model}'; after {self._attempts} attempts it was not reached: "
                f"{self._hidden(in_short(error.__cause__ or error))}. Look whether the network is there, then run "
                "the same command again: what was answered is kept.",
                is_there=not isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout),
            ) from None

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes, path: str) -> Exception:
        """Return the error of an answer that is none."""
        words = self._words(content) or f"nothing but HTTP {status}"
        if status in (401, 403):
            return UserError(
                f"{self.url} must accept the key in {self.key_name} for '{self.model}'; it answers {status}: {words}. "
                f"Set {self.key_name} in the environment."
            )
        if status in _AGAIN or (status >= 500 and status not in _FOR_GOOD):
            if self.is_openai:  # it has tried often enough
                return NoAnswerError(
                    f"{self.url} must answer for '{self.model}'; after {self._attempts} attempts it says {status}: "
                    f"{words}. Run the same command again later: what was answered is kept."
                )
            return _AgainError(f"it says {status}: {words}", retry_after(headers))
        return RefusedError(
            f"{self.url} must take what is asked of '{self.model}' at {path}; it refuses ({status}): {words}. Look "
            "whether URL and model are right, and try --api route=NAME with another route.",
            status,
            words,
        )

    def _failed(self, error: Any, path: str) -> Exception:
        """Return the error that an answer with 200 says."""
        code = str(error.get("code")) if isinstance(error, dict) else ""
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else 0
        content = to_json({"error": error}).encode()
        if status in _AGAIN or (status >= 500 and status not in _FOR_GOOD):
            return _AgainError(f"it says {status}: {self._words(content)}")
        if status:
            return self._refusal(status, {}, content, path)
        return ModelError(
            f"{self.url} must answer what is asked of '{self.model}' at {path}; it says: {self._words(content)}. Look "
            "whether URL and model are right, and try --api route=NAME with another route."
        )

    def _words(self, content: bytes) -> str:
        """Return what a server says of an error, in short."""
        text = self._hidden(_words(content))  # before it is cut
        return text[:300].rstrip(". ") + "…" * (len(text) > 300)

    def _hidden(self, words: str) -> str:
        """Return a server's words without the key, and without its beginning where they were cut."""
        for n in range(len(self._key), min(len(self._key), _TELLS) - 1, -1) if self._key else ():
            words = words.replace(self._key[:n], "…")
        return words

    def _without_key(self, said: Any) -> Any:
        """Return an answer whose texts have no key, as they may be repeated in errors and records."""
        if isinstance(said, dict):
            return {name: self._without_key(value) for name, value in said.items()}
        if isinstance(said, list):
            return [self._without_key(value) for value in said]
        return self._hidden(said) if isinstance(said, str) else said

    def _checked(self, content: bytes, path: str, *, is_paid: bool) -> Any:
        """Return the JSON of an answer, and count what it took.

        Raises:
            _AgainError: It is none, lacks its choices, or is another model's.
            Exception: It is an error, as `_failed` says it.
        """
        try:
            answer = from_json(content)
        except ValueError:
            raise _AgainError(f"it answers what is no JSON: {self._words(content) or 'nothing'}") from None
        if len(self._key) >= _TELLS and self._key.encode() in content:
            answer = self._without_key(answer)
        if isinstance(answer, dict):
            usage, named = _usage(answer) if is_paid else Usage(), answer.get("model")
            if error := _error_in(answer):
                self._count(usage, is_of_use=False)
                raise self._failed(error, path)
            if "choices" in answer and not answer["choices"]:
                self._count(usage, is_of_use=False)
                raise _AgainError("it answers without any choices")
            if isinstance(named, str) and named and not same_model(self.model, named):
                self._count(usage, is_of_use=False)
                raise _AgainError(f"it answers as another model, '{self._hidden(named[:300])}'")
            self._count(usage, is_of_use=True)
        return answer


@cache
def _trusted() -> Any:
    """Return the certificates that are trusted; to read them takes longer than to ask a question."""
    import httpx2

    return httpx2.create_ssl_context()


def same_model(asked: str, named: str) -> bool:
    """Return whether a server that was asked for a model names the same one in its answer.

    It may name a dated version of it ("m" as "m-2026-01-31"), a tag or revision ("m:latest", "m@main"), or the file or
    folder that it is in. Where both name an owner ("owner/m") it is the same one.
    """
    asked, named = (n.replace("\\", "/").lower() for n in (asked, named))
    if asked == named:
        return True
    (owner, own), (other_owner, other) = _owned(asked), _owned(named)
    are_files = asked.endswith(".gguf") or named.endswith(".gguf")
    if owner and other_owner and owner != other_owner and not are_files:
        return False
    return bool(own) and other.startswith(own) and bool(_VERSION.fullmatch(other[len(own) :]))


def _owned(name: str) -> tuple[str, str]:
    """Return the owner that a name tells, and the rest; a folder of a machine is none."""
    folder, _, base = name.rpartition("/")
    is_path = folder.startswith(("/", ".", "~")) or folder[1:2] == ":" or not folder
    return "" if is_path else folder.rpartition("/")[2], base.removesuffix(".gguf")


def _error_in(answer: Mapping[str, Any]) -> Any:
    """Return the error that an answer, or a choice in it that came to no end, says; None where there is none."""
    if "choices" not in answer:
        return answer.get("error")
    ended = (choice for choice in choices_of(answer) if choice.get("finish_reason") == "error")
    return next((choice.get("error") or "an answer ended with an error" for choice in ended), None)


def _words(content: bytes) -> str:
    """Return what a server says of an error."""
    try:
        said = from_json(content)
    except ValueError:
        said = content.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and key in said:
            said = said[key]
    return " ".join((said if isinstance(said, str) else to_json(said)).split())


def _usage(answer: Mapping[str, Any]) -> Usage:
    """Return what an answer says of its tokens, as OpenAI's do, or as those of llama.cpp's own paths."""
    said = answer.get("usage")
    if not isinstance(said, Mapping):
        timings = answer.get("timings")
        said = {
            "input_tokens": answer.get("tokens_evaluated"),
            "output_tokens": answer.get("tokens_predicted"),
            "input_tokens_details": {"cached_tokens": timings.get("cache_n") if isinstance(timings, Mapping) else 0},
        }

    def number(places: Mapping[str, Any], *names: str) -> int:
        return next((int(n) for name in names if isinstance(n := places.get(name), int | float) and 0 <= n < 1e12), 0)

    details = next((said[n] for n in ("prompt_tokens_details", "input_tokens_details") if said.get(n)), {})
    cached = number(details, "cached_tokens") if isinstance(details, Mapping) else 0
    read, wrote = number(said, "prompt_tokens", "input_tokens"), number(said, "completion_tokens", "output_tokens")
    return Usage(1, read, cached, wrote)
