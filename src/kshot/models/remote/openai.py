"""A language model behind an API that speaks as OpenAI's does: `openai:NAME`, `openai:http://host/v1#NAME`."""

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self, TypeVar

import numpy as np

from kshot.core.api_settings import ApiSettings, parse_address, parse_api
from kshot.core.errors import ModelError, RefusedError, SameTokensError, UserError
from kshot.core.ledger import Cost, Ledger
from kshot.core.models import Capability, Store
from kshot.core.seeding import digest
from kshot.core.types import FloatArray, GenerateRequest, Generation, Prompt, ScoreRequest
from kshot.models.remote.calls import ask_all, wait_for
from kshot.models.remote.known import read_again
from kshot.models.remote.named_servers import remember
from kshot.models.remote.paid import Answer, Readings, Shelf, Texts
from kshot.models.remote.probing import ROUTES, Found, check_route, probe, route_of
from kshot.models.remote.route import Reading, Refusal, Route, Takes
from kshot.models.remote.server_cache import ServerCache
from kshot.models.remote.service import HttpService, Usage
from kshot.models.remote.tokenizing import tokenizer_of
from kshot.models.remote.writing import written

T = TypeVar("T")

API_VERSION = 1
MAX_TOKENS = 32_768  # where the server does not say it
_MOST_SAVED = 1024  # answers
_A_MESSAGE = 8  # tokens around a message, at most
_TOO_LONG = re.compile(
    r"context (length|size|window)|(prompt|input|request)\b.*\b(too (long|large)|exceeds?)\b|max_model_len",
    re.IGNORECASE,
)


class ApiModel:
    """A language model behind an API.

    Args:
        service: The server.
        settings: How it is asked.
        name: How the user named it.
        found: What the server was found to be.
        cache: Where it is kept what the server has said of itself.
        takes_refusal: A server is asked also where it refuses the questions of the probe.

    Attributes:
        found: What the server was found to be.
    """

    capabilities = frozenset({Capability.SCORE, Capability.GENERATE})
    chat = None
    control_tokens = ()
    is_remote = True

    def __init__(
        self,
        service: HttpService,
        settings: ApiSettings,
        name: str,
        found: Found,
        cache: ServerCache,
        *,
        takes_refusal: bool = False,
    ):
        self.name, self.found, self._takes_refusal = name, found, takes_refusal
        self._service, self._settings, self._cache = service, settings, cache
        self._masses: dict[str, float] = {}  # by the keys of answers; shared by copies
        self._owed = [service.usage + service.wasted]  # what no kept answer took, as the probe; shared by all copies
        self._saved: dict[str, Answer[Any]] = {}  # of calls that failed, until asked for again; shared by copies
        self._store: Store | None = None

    @property
    def origin(self) -> Mapping[str, Any]:
        """How to load it again beside its name: by the routes that it was asked by."""
        return {"api": self._as_found.text}

    @property
    def _as_found(self) -> ApiSettings:
        return replace(self._settings, route="+".join(self.found.routes))

    @property
    def fingerprint(self) -> str:
        """Identifies the server, the model, and how its answers are read."""
        return digest(self._service.url, self.weights_id)

    @property
    def weights_id(self) -> str:
        """Identifies the model and how its answers are read, wherever it is asked."""
        samples = self._settings.samples if "constrained" in self.found.routes else 0
        return digest("api", API_VERSION, self._service.model, self.found.routes, samples)

    @property
    def old_fingerprint(self) -> str:
        """As `fingerprint`."""
        return self.fingerprint

    @property
    def in_messages(self) -> bool:
        """Whether it is asked in messages, and not by a text."""
        return self._routes[0].in_messages

    @property
    def max_tokens(self) -> int:
        """The longest prompt with its answer, in tokens."""
        return self._settings.max_tokens or self.found.max_tokens or MAX_TOKENS

    @property
    def remark(self) -> str:
        """How its probabilities are read, and what is not known of it."""
        told = [f"the route '{route.name}' ({route.trust})" for route in self._routes]
        said = f"'{self.name}' is asked by {told[0]}"
        for better, more in zip(self._routes, told[1:], strict=False):
            said += f", for more than {better.most} labels by {more}"
        if not (self._settings.max_tokens or self.found.max_tokens):
            said += (
                f"; it does not say how long a prompt may be, and {MAX_TOKENS} tokens are assumed (--api max-tokens=…)"
            )
        return said

    @property
    def about(self) -> dict[str, Any]:
        """Where and how it is asked, why not by better routes, and how much of its probability the labels had."""
        masses = list(self._masses.values())
        return {
            "url": self._service.url,
            "routes": list(self.found.routes),
            "trust": self._routes[0].trust,
            "why_not": dict(self.found.why_not),
            "tokenizer": self.found.tokenizer,
            "max_tokens": self.max_tokens,
            "mass": {"mean": float(np.mean(masses)), "least": min(masses), "n": len(masses)} if masses else None,
        }

    @cached_property
    def _routes(self) -> tuple[Route, ...]:
        return tuple(route_of(name, self._settings) for name in self.found.routes)

    def with_store(self, store: Store | None) -> Self:
        """Return the same model keeping every answer in `store`, if there is one."""
        other = copy(self)
        other._store = store
        return other

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has: as the server's tokenizer says, or else its bytes, which are not fewer."""
        around = _A_MESSAGE if self.in_messages else 0
        if self.found.tokenizer == "none":
            return len(text.encode("utf-8", "surrogatepass")) + around
        n = self._cache.count(text)
        if n is None:
            n = len(wait_for(_ids(self._service, text)))
            self._cache.put_count(text, n)
        return n + around

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return about how many tokens the server will be sent to score `requests`, those in its cache too.

        A prompt counts as often as the route sends it.

        Raises:
            SameTokensError: Two continuations of a request are the same.
            UserError: No route takes so many continuations.
        """
        return sum(self._takes(r).prompts * self._prompt_tokens(r.prompt) for r in dict.fromkeys(requests))

    def expected_calls(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many calls it takes to score `requests`, as far as that is known before; as `forward_tokens`."""
        return sum(self._takes(r).calls for r in dict.fromkeys(requests))

    def _takes(self, request: ScoreRequest) -> Takes:
        """Return what a request takes; of the same continuations it is found out once, and kept."""
        route, texts = self._route(request), request.continuations
        keys = [digest(key, route.name, self._settings.samples, texts) for key in ("calls", "prompts")]
        calls, prompts = map(self._cache.count, keys)
        if calls is None or prompts is None:
            found = wait_for(route.takes(self._service, texts))
            for key, n in zip(keys, (found.calls, found.prompts), strict=True):
                self._cache.put_count(key, n)
            return found
        return Takes(calls, prompts)

    def _prompt_tokens(self, prompt: Prompt) -> int:
        return sum(self.count_tokens(segment.text) for segment in prompt.segments) + 1

    def _route(self, request: ScoreRequest) -> Route:
        """Return the best route that takes a request."""
        texts = request.continuations
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise SameTokensError(twice, twice)
        if len(texts) < 2 and self._routes[0].trust != "exact":
            raise UserError(
                f"'{self.name}' says nothing of a single text that is given (route '{self._routes[0].name}'), and must "
                "be asked to choose among two or more. Give another --selector-model for what asks for more."
            )
        found = next((route for route in self._routes if route.most is None or len(texts) <= route.most), None)
        if found is None:
            most = max(route.most or 0 for route in self._routes)
            raise UserError(
                f"'{self.name}' takes at most {most} labels by its route '{self._routes[-1].name}'; got {len(texts)}. "
                "Use fewer labels, or another --api route."
            )
        return found

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return log-probabilities in nats `[n_continuations]` per request; each answer is stored as it arrives.

        Raises:
            ModelError: The server fails, or says no log-probabilities any more.
            UserError: A request that it cannot be asked.
        """
        routes = [self._route(r) for r in requests]
        keys = [
            digest(self.fingerprint, "score", route.name, _said(r.prompt), r.continuations)
            for route, r in zip(routes, requests, strict=True)
        ]
        asked = dict(zip(keys, zip(routes, requests, strict=True), strict=True))

        async def read(service: HttpService, key: str) -> Reading:
            return await read_again(asked[key][0], service, asked[key][1], service.waste)

        shelf = Readings(self._store) if self._store else None
        found = self._each_once(keys, read, shelf, progress, ledger)
        self._masses |= {key: r.mass for key, r in zip(keys, found, strict=True) if r.mass is not None}
        return [r.log_probs for r in found]

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Return an answer for each request; of those that are allowed, the one that it finds most probable.

        Raises:
            ModelError: The server fails, or answers without a text.
        """
        keys = [
            digest(self.fingerprint, "text", _said(r.prompt), r.max_tokens, r.stop, r.temperature, r.seed, r.allowed)
            for r in requests
        ]
        asked = dict(zip(keys, requests, strict=True))

        async def write(service: HttpService, key: str) -> Generation:
            request = asked[key]
            if not request.allowed:
                return await written(service, request, in_messages=self.in_messages)
            choice = ScoreRequest(request.prompt, tuple(dict.fromkeys(request.allowed)))
            reading = await read_again(self._route(choice), service, choice, service.waste)
            return Generation(choice.continuations[int(np.argmax(reading.log_probs))], True)

        return self._each_once(keys, write, Texts(self._store) if self._store else None, progress, ledger)

    def _each_once(
        self,
        keys: Sequence[str],
        ask: Callable[[HttpService, str], Awaitable[T]],
        shelf: Shelf[T] | None,
        progress: Callable[[int], None] | None,
        ledger: Ledger | None,
    ) -> list[T]:
        """Return an answer for each of `keys`: from the store, or asked, and stored and counted as it arrives."""
        times, ledger, tell = Counter(keys), ledger or Ledger(), progress or (lambda n: None)
        answers, last = dict[str, Answer[T]](), time.monotonic()

        def take(key: str, answer: Answer[T], cost: Cost) -> None:
            answers[key] = answer
            ledger.add(cost + Cost(seconds=answer.seconds, tokens=answer.usage.input + answer.usage.output))

        known = shelf.get(list(times)) if shelf else {k: self._saved.pop(k) for k in times if k in self._saved}
        for key, answer in known.items():
            take(key, answer, Cost(reused=1))
        if answers:
            tell(sum(times[key] for key in answers))

        under_way = dict[str, HttpService]()

        def check() -> None:
            ledger.check_call(sum((s.usage + s.wasted for s in list(under_way.values())), Usage()).cost)

        async def job(key: str) -> Answer[T]:
            service = under_way[key] = self._service.metered(before_call=check)
            try:
                return Answer(await ask(service, key), service.usage, 0.0, service.wasted)
            except BaseException:
                self._owed.append(service.usage + service.wasted)
                raise

        def keep(key: str, answer: Answer[T]) -> None:
            nonlocal last
            now = time.monotonic()  # many are under way at once: each takes the time since the one before it
            answer, last = replace(answer, seconds=now - last), now
            if shelf:
                shelf.put(key, answer)
            del under_way[key]
            take(key, answer, answer.paid + Cost(scored=1))

        jobs = {key: partial(job, key) for key in times if key not in answers}
        if jobs:
            ledger.check_call()
            try:
                self._confirm()
                self._pay_owed(ledger)  # on disk before anything can end the process
                at_once, patience = self._settings.concurrency, self._settings.timeout
                ask_all(jobs, at_once=at_once, keep=keep, tell=lambda key: tell(times[key]), patience=patience)
            except RefusedError as error:
                raise self._explained(error) from None
            finally:
                if not shelf and len(answers) < len(times):
                    self._save(answers)
                self._pay_owed(ledger)
        return [answers[key].value for key in keys]

    def _save(self, answers: Mapping[str, Answer[Any]]) -> None:
        """Have what was answered before a call failed for whoever asks its other requests again, once."""
        self._saved.update(answers)
        for key in list(self._saved)[:-_MOST_SAVED]:
            self._saved.pop(key, None)

    def _pay_owed(self, ledger: Ledger) -> None:
        """Count what was paid for and left no answer that is kept."""
        owed = sum(self._owed, Usage()).cost
        self._owed.clear()
        if owed.calls:
            ledger.add(owed)
            if self._store:
                self._store.put([], paid=owed)

    def _confirm(self) -> None:
        """Probe the route once more before the first request, where it was found by an earlier process.

        Raises:
            ModelError: It cannot be trusted any more.
        """
        if self._service.memory.setdefault("is confirmed", False):
            return
        asked = self._service.metered()
        why = wait_for(self._routes[0].probe(asked))
        self._owed.append(asked.usage + asked.wasted)
        if why and not (self._takes_refusal and isinstance(why, Refusal)):
            self._cache.put_record(_record_key(self._settings, self._takes_refusal), {})
            raise ModelError(
                f"The route '{self._routes[0].name}' of '{self.name}' must be as it was; now {why}. Run the same "
                "command again: it looks for another route."
            )
        self._service.memory["is confirmed"] = True

    def _explained(self, error: RefusedError) -> ModelError:
        """Return the error of a prompt that is too long as one that says what to do, and others as they are."""
        if not _TOO_LONG.search(error.words):
            return error
        return ModelError(
            f"A prompt with its answer must fit the context of '{self.name}'; {self.max_tokens} tokens were taken for "
            f"its length, and the server says: {error.words}. Say its length with --api max-tokens=…, or use fewer "
            "--shots."
        )


def _said(prompt: Prompt) -> tuple[object, ...]:
    return prompt.spells_first_token, [[segment.role, segment.text] for segment in prompt.segments]


async def _ids(service: HttpService, text: str) -> tuple[int, ...]:
    tokenizer = await tokenizer_of(service)
    assert tokenizer is not None
    return await tokenizer.ids(text)


def _record_key(settings: ApiSettings, takes_refusal: bool) -> str:
    more = ["takes refusal"] if takes_refusal else []
    return digest("found", API_VERSION, list(ROUTES), settings.record, *more)


def load_api_model(name: str, api: str | Mapping[str, Any] | None = None, *, takes_refusal: bool = False) -> ApiModel:
    """Return the model of an address.

    Which route it is asked by is found out at the first time, and kept in the cache folder; another process looks once
    more whether that holds before it asks anything, and asks nothing where all is known. The server then counts as one
    that the user has named: for a saved model `check_named` comes first.

    Args:
        name: `openai:NAME` or `openai:http://host/v1#NAME`.
        api: How it is asked (`kshot.core.api_settings.parse_api`).
        takes_refusal: It is taken also where it refuses the questions of the probe, as services do that answer what
            they have learnt alone; `found.why_not` says so.

    Raises:
        UserError: The server is not there, does not take the key or know the model, or cannot be trusted.
    """
    settings = parse_api(api)
    check_route(settings)
    address = parse_address(name)
    service = HttpService(address, settings)
    remember(address)
    cache = ServerCache(service.url, service.model)
    record = cache.record(_record_key(settings, takes_refusal))
    if record:
        found = Found.read(record)
        service.memory["tokenizer"] = found.tokenizer
    else:
        found = wait_for(probe(service, settings, takes_refusal=takes_refusal))
        service.memory["is confirmed"] = True
        named = replace(settings, route="+".join(found.routes))  # as a saved model names them
        for known in (settings, named):
            cache.put_record(_record_key(known, takes_refusal), found.record)
    return ApiModel(service, settings, address.name, found, cache, takes_refusal=takes_refusal)
