"""Servers that nobody has named, or that tell keys, and answers that are read at the wrong place."""

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest

import kshot
from api_server import ApiServer, refused, served, tokens_of
from conftest import labelled_rows
from kshot.core.api_settings import ApiSettings, parse_address
from kshot.core.errors import KshotError, ModelError, NoAnswerError, RefusedError, UserError
from kshot.core.types import Example, Prompt, ScoreRequest, Segment, Task
from kshot.engine.load_model import load_model
from kshot.models.remote import named_servers
from kshot.models.remote.calls import wait_for
from kshot.models.remote.decision_question import is_number
from kshot.models.remote.echo import Echo
from kshot.models.remote.known import why_wrong
from kshot.models.remote.openai import load_api_model
from kshot.models.remote.route import is_log_prob
from kshot.models.remote.service import HttpService
from shaped_server import decision_server

KEY = "tok-SECRET-" + "A1b2C3d4E5" * 14
TASK = Task(
    "words",
    "classification",
    tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(12))),
    labels=("animal", "food", "tool"),
)


pytestmark = pytest.mark.usefixtures("services_alone")


@pytest.fixture
def on_another_machine(monkeypatch, tmp_path):
    def go():
        monkeypatch.setattr(named_servers, "_here", set())
        monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "another"))

    return go


def test_a_saved_model_asks_no_server_that_its_user_has_not_named(on_another_machine, monkeypatch, tmp_path):
    with served(ApiServer()) as server:
        kshot.adapt(TASK, server.name, recipes="random", shots=2, limit=3, out=tmp_path / "run")
        monkeypatch.setattr(named_servers, "_here", set())  # as a new process on the same machine
        kshot.load(tmp_path / "run")
        on_another_machine()
        monkeypatch.setenv("KSHOT_API_KEY", KEY)
        server.asked.clear()
        with pytest.raises(UserError) as refusal:
            kshot.load(tmp_path / "run")
        assert f"asks {server.url}, and all inputs, and the key" in str(refusal.value)
        assert str(refusal.value).endswith(f"To allow it, name it with --model {server.name} (in Python model=).")
        assert not server.asked
        assert kshot.load(tmp_path / "run", model=server.name).predict(["the cat"])
        kshot.load(tmp_path / "run")  # it is named now


def test_a_saved_decision_service_is_asked_by_those_who_have_named_it(on_another_machine, tmp_path):
    with served(decision_server()) as server:
        recipe = f"mix(decisions:service={server.name}, zero-shot)"
        kshot.adapt(TASK, "scripted", recipes=recipe, limit=3, out=tmp_path / "run")
        kshot.load(tmp_path / "run")
        on_another_machine()
        server.asked.clear()
        with pytest.raises(UserError, match=r"asks http://127.* name it: kshot\.load_model\('openai:http"):
            kshot.load(tmp_path / "run")
        assert not server.asked


def test_a_service_must_be_written_as_an_address():
    with pytest.raises(UserError, match="must be openai:NAME or openai:http"):
        parse_address("http://host/v1#m")  # which no look through a saved model would take for one


def asked(server, key, monkeypatch):
    monkeypatch.setenv("KSHOT_API_KEY", key)
    service = HttpService(parse_address(server.name), ApiSettings(retries=0))
    return wait_for(service.post("/completions", {"prompt": "a", "model": server.model}))


@pytest.mark.parametrize("key", ["SECRET-é-0123456789", "SECRET\r\nX-More: 1", "SECRET\x7f"])
def test_a_key_that_is_none_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("KSHOT_API_KEY", key)
    with pytest.raises(UserError, match=r"The key in KSHOT_API_KEY must be ASCII .* Copy it again") as refusal:
        HttpService(parse_address("openai:http://127.0.0.1:9/v1#m"), ApiSettings())
    assert "SECRET" not in str(refusal.value)


def test_space_around_a_key_is_left_out(monkeypatch):
    with served(ApiServer()) as server:
        asked(server, f" {KEY}\r\n", monkeypatch)
        assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("url", ["http://user:PASSW0RD@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key=PASSW0RD"])
def test_openais_base_url_holds_no_password(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UserError, match=r"The URL in OPENAI_BASE_URL must hold no password") as refusal:
        load_model("openai:m")
    assert "PASSW0RD" not in str(refusal.value)


TOLD = {
    "cut by us": lambda path, body, answer: refused(400, "x" * 240 + f" Bearer {KEY}"),
    "cut by the server": lambda path, body, answer: refused(400, f"Bearer {KEY[:20]}"),
    "as a model's name": lambda path, body, answer: {**answer, "model": f"Bearer {KEY}"},
    "as no JSON": lambda path, body, answer: refused(500, "x" * 290 + KEY),
}


@pytest.mark.parametrize("told", TOLD)
def test_a_key_that_a_server_repeats_is_not_shown(told, monkeypatch):
    with served(ApiServer()) as server:
        server.change = TOLD[told]
        with pytest.raises((RefusedError, NoAnswerError)) as error:
            asked(server, KEY, monkeypatch)
    assert KEY[:8] not in str(error.value)
    assert isinstance(error.value, KshotError)


def test_a_key_in_an_answer_is_taken_out_of_it(monkeypatch):
    with served(ApiServer()) as server:
        server.change = lambda path, body, answer: {**answer, "more": [{"headers": f"Bearer {KEY}"}]}
        assert asked(server, KEY, monkeypatch)["more"] == [{"headers": "Bearer …"}]


class OnIds:
    """Repeats ids with their log-probabilities, after `before` of its own and before `after`."""

    model = "m"

    def __init__(self, before: int, after: int):
        self.before, self.after = before, after
        self.memory: dict[str, Any] = {"tokenizer": "vllm"}

    async def get(self, path):
        raise AssertionError("nothing is looked up")

    async def post(self, path, body):
        if "tokenize" in path:
            first = [0] if body["add_special_tokens"] else []
            return {"tokens": first + [hash(token) % 10**9 + 1 for token in tokens_of(body["prompt"])]}
        return {"choices": [{"index": i, "logprobs": self.row(ids)} for i, ids in enumerate(body["prompt"])]}

    def row(self, ids):
        ids = [0] * self.before + ids + [7] * self.after
        seen = {(a, b) for a, b in zip(ids[:-2], ids[1:-1], strict=True)}
        log_probs = [math.log(0.9 if pair in seen else 0.01) for pair in zip(ids, ids[1:], strict=False)]
        return {"tokens": [f"t{i}" for i in ids], "token_logprobs": [None, *log_probs]}


def test_an_echo_that_is_shifted_is_not_read():
    question = ScoreRequest(Prompt((Segment("query", "one red two"),)), (" red", " blue"))
    for after in (0, 1):
        asyncio.run(Echo().read(OnIds(0, after), question))
    with pytest.raises(ModelError, match="must answer the tokens that were sent, with none before them"):
        asyncio.run(Echo().read(OnIds(1, 0), question))
    assert "with none before them" in str(asyncio.run(why_wrong(Echo(), OnIds(1, 0))))


def letters_of(change, asked=None):
    """Return the probabilities that are read where the likeliest tokens are changed; `asked` takes the requests."""
    prompt = Prompt((Segment("instruction", "Choose."), Segment("query", "q")), spells_first_token=True)
    with served(ApiServer()) as server:
        server.lacks |= {"completions"}
        model = load_api_model(server.name, "route=letters")

        def changed(path, body, answer):
            content = answer["choices"][0]["logprobs"]["content"][0]
            content["top_logprobs"] = change(content["top_logprobs"])
            if asked is not None:
                asked.append(body)
            return answer

        server.change = changed
        return np.exp(model.score([ScoreRequest(prompt, ("cat", "dog", "cow"))])[0])


def test_letters_that_are_all_certain_are_refused():
    with pytest.raises(
        ModelError, match=r"sum to 1 at most; those of the labels sum to \d\.00\. Take another --api route"
    ):
        letters_of(lambda rows: [row | {"logprob": 0.0} for row in rows])


def test_a_token_that_is_told_twice_counts_once():
    once = letters_of(lambda rows: rows)
    twice = letters_of(lambda rows: [*rows[:3], *[rows[1]] * 5, *rows[3:]])
    np.testing.assert_allclose(twice, once)
    spelt = letters_of(lambda rows: [*rows, rows[1] | {"token": f" {rows[1]['token']}"}])
    assert max(spelt) < max(once) - 0.01


def test_an_answer_that_begins_with_no_letter_is_asked_again_and_then_an_error():
    other, asked = [{"token": f"<think{i}>", "logprob": math.log(0.05)} for i in range(20)], []
    with pytest.raises(ModelError, match=r"must begin its answer with one of the letters .*; 0\.00 of its probability"):
        letters_of(lambda rows: other, asked)
    assert len(asked) == 3


def test_integers_that_no_float_can_be_are_no_log_probabilities():
    huge = json.loads("-" + "9" * 400)
    assert not is_log_prob(huge)
    assert not is_number(huge)
    assert is_log_prob(-9999)
