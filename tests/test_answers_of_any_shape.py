"""Whatever JSON a service answers, a route reads the right numbers, or says that the service is wrong; none crashes.

Each place of a right answer is replaced by what it must not be, and read.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from api_server import ApiServer
from kshot.core.api_settings import ApiSettings, parse_address
from kshot.core.errors import ModelError, NoAnswerError
from kshot.core.types import FloatArray, GenerateRequest, Prompt, ScoreRequest, Segment
from kshot.models.remote.constrained import Constrained
from kshot.models.remote.echo import Echo
from kshot.models.remote.letters import Letters
from kshot.models.remote.service import HttpService, _AgainError
from kshot.models.remote.writing import written

GONE = object()
WRONG = (None, 7, -1.5, True, "x", [], {}, [None], {"x": 1}, float("nan"), float("inf"), -9999.0, GONE)
TEXT = ScoreRequest(Prompt((Segment("query", "a b c a b"),)), (" c", " z"))
TURNS = Prompt((Segment("instruction", "Choose."), Segment("query", "Say the word 'cat'.")), spells_first_token=True)
CHOICE = ScoreRequest(TURNS, ("cat", "dog"))


class Answering(HttpService):
    """Answers what the test server would, changed at one place, without a network."""

    place: tuple[Any, ...] | None = None
    wrong: Any = None

    async def _persistently(self, method: str, path: str, body: Any) -> Any:
        server = ApiServer()
        answer = server.chat(body) if "chat" in path else server.completions(body)
        self.right = deepcopy(answer)
        if self.place is not None:
            with contextlib.suppress(IndexError):  # a request for the rest of several answers
                answer = changed(answer, self.place, self.wrong)
        try:
            return self._checked(json.dumps(answer).encode(), path, is_paid=True)
        except _AgainError as error:
            raise NoAnswerError(str(error)) from None


def places(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Iterate over all places of JSON; of a list those of its ends."""
    yield so_far
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*so_far, name))
    elif isinstance(value, list):
        for i in sorted({0, len(value) - 1} - {-1}):
            yield from places(value[i], (*so_far, i))


def changed(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    if not place:
        return None if wrong is GONE else wrong
    inner, (*before, last) = value, place
    for name in before:
        inner = inner[name]
    if wrong is GONE:
        del inner[last]
    else:
        inner[last] = wrong
    return value


def read_by(route: Any, request: ScoreRequest) -> Any:
    return lambda service: asyncio.run(route.read(service, request)).log_probs


def write_as(prompt: Prompt, in_messages: bool) -> Any:
    request = GenerateRequest(prompt, 4, stop=("\n",))
    return lambda service: asyncio.run(written(service, request, in_messages=in_messages))


WAYS = {
    "echo": (read_by(Echo(), TEXT), 2),
    "letters": (read_by(Letters(), CHOICE), 2),
    "constrained": (read_by(Constrained(samples=2), CHOICE), 2),
    "texts": (write_as(TEXT.prompt, in_messages=False), 0),
    "chats": (write_as(TURNS, in_messages=True), 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_of_any_shape_is_read_rightly_or_is_an_error_of_the_server(way):
    ask, n = WAYS[way]
    service = Answering(parse_address("openai:http://127.0.0.1:9/v1#repeater"), ApiSettings())
    service.memory["tokenizer"] = "none"
    right = ask(service)
    answer, n_refused = service.right, 0
    for place in places(answer):
        for wrong in WRONG:
            service.place, service.wrong = place, wrong
            try:
                got = ask(service)
            except ModelError:
                n_refused += 1
                continue
            if n:
                check(got, right, place)
            else:
                assert isinstance(got.text, str)
                assert isinstance(got.finished, bool)
    assert n_refused > 20


def check(got: FloatArray, right: FloatArray, place: tuple[Any, ...]) -> None:
    """Only a number that is another number changes what is read; probabilities stay what they are."""
    assert got.shape == right.shape
    assert np.isfinite(got).all()
    assert (got <= 1e-2).all()
    if not {"logprob", "token_logprobs", "top_logprobs", "content", "tokens", "index", "choices"} & set(place):
        assert got.tolist() == right.tolist(), place
