"""Models behind an API: what is sent, what is read of the answers, what is paid, and what is refused."""

import pytest

import kshot
from api_server import ApiServer, echoed, served
from kshot.core.types import Prompt, ScoreRequest, Segment, Task
from kshot.engine.load_model import load_model


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    import stamina

    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    for name in ("KSHOT_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with stamina.set_testing(True, attempts=9, cap=True):  # no waits
        yield


@pytest.fixture
def server():
    with served(ApiServer()) as running:
        yield running


def request(text: str = "a b c a b", *ends: str) -> ScoreRequest:
    return ScoreRequest(Prompt((Segment("query", text),)), ends or (" c", " z"))


def test_echoed_continuations_are_scored_as_their_texts_are(server):
    model = load_model(server.name)
    asked = [request("a b c a b", " c", " d e"), request("x y", " z", " x y")]
    got = model.score(asked)
    for row, one in zip(got, asked, strict=True):
        for value, end in zip(row, one.continuations, strict=True):
            values = echoed(one.prompt.text + end)["token_logprobs"]
            n = len(echoed(one.prompt.text)["tokens"])
            assert value == pytest.approx(sum(values[n:]))


def test_a_run_on_an_api_model_goes_end_to_end_and_again_for_nothing(server, words_task, tmp_path):
    task = Task.load(words_task)
    run = kshot.adapt(task, server.name, recipes="majority,zero-shot,random", shots=4, limit=20, out=tmp_path / "run")
    assert {row["recipe"] for row in run.leaderboard} == {"majority", "zero-shot", "random"}
    n = len(server.asked)
    assert n > 40
    again = kshot.adapt(task, server.name, recipes="majority,zero-shot,random", shots=4, limit=20, out=tmp_path / "run")
    assert len(server.asked) == n
    assert again.leaderboard == run.leaderboard
    loaded = kshot.load(tmp_path / "run")
    assert loaded.predict(["a cat"]) == run.best.predict(["a cat"])
