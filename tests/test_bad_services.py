"""What users meet first: a service that is wrong, or is asked what it cannot, is one sentence with what to do."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

import kshot
from api_server import ApiServer, next_log_prob, refused, served, tokens_of
from conftest import labelled_rows, write_task
from kshot.core.types import Prompt, ScoreRequest, Segment, Task
from kshot.engine.load_model import load_model

pytestmark = pytest.mark.usefixtures("services_alone")


@pytest.fixture(scope="module")
def running():
    with served(ApiServer()) as server:
        yield server


@pytest.fixture
def server(running):
    """Asked by texts, as it is at first."""
    running.lacks = {"tokenize", "chat"}
    running.change = lambda path, body, answer: answer
    return running


def on(path: str, bad: Any) -> Any:
    return lambda asked, body, answer: bad(answer) if asked.endswith(path) else answer


def log_probs_as(made: Any) -> Any:
    def bad(answer: Any) -> Any:
        return answer | {"choices": [c | {"logprobs": made(c["logprobs"])} for c in answer["choices"]]}

    return on("/completions", bad)


def cut(log_probs: Any) -> Any:
    return {name: values[-3:] for name, values in log_probs.items()}


WRONG = {
    "no key": (
        on("", lambda _: refused(401, "You didn't provide an API key")),
        r"must accept the key in KSHOT_API_KEY for 'repeater'; it answers 401: .* Set KSHOT_API_KEY in the environment",
    ),
    "no API": (
        on("", lambda _: refused(404, "Not Found")),
        r"must tell probabilities of labels by a route that can be trusted; none of those tried can",
    ),
    "another model": (
        on("/completions", lambda answer: answer | {"model": "imposter-7b"}),
        r"echo: .* it answers as another model, 'imposter-7b'.* Take another server or model",
    ),
    "no log-probabilities": (
        log_probs_as(lambda _: None),
        r"echo: To an echoed completion 'repeater' must answer log-probabilities .* Take another server or model",
    ),
    "truncated log-probabilities": (
        log_probs_as(cut),
        r"echo: To an echoed completion 'repeater' must answer the .* Take another server or model",
    ),
    "probabilities for their logarithms": (
        log_probs_as(lambda said: said | {"token_logprobs": [v and math.exp(v) for v in said["token_logprobs"]]}),
        r"echo: .*a log-probability of each token of a label.* Take another server or model",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_service_is_one_sentence_before_anything_is_written(wrong, server, words_task, tmp_path, run_cli):
    server.change, said = WRONG[wrong]
    run = run_cli("adapt", words_task, "--model", server.name, "--recipes", "zero-shot", "--out", tmp_path / "run")
    assert run.code == 2
    errors = [line for line in run.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search(said, errors[0]), errors[0]
    assert "Traceback" not in run.err
    assert run.out == ""
    assert not (tmp_path / "run").exists()


def test_a_context_that_is_short_drops_whole_demonstrations_and_refuses_what_never_fits(server, tmp_path, run_cli):
    short = lambda answer: answer | {"data": [answer["data"][0] | {"max_model_len": 150}]}  # noqa: E731
    server.change = on("/models", short)
    rows = labelled_rows(12)
    fits = write_task(tmp_path / "fits", rows)
    told = ("--model", server.name, "--recipes", "all-past", "--shots", 12)
    run = run_cli("adapt", fits, *told, "--out", tmp_path / "run")
    assert run.code == 0
    assert "in 10 of 12 prompts demonstrations were left out, whole, to fit the model's 150 tokens" in run.err
    rows[3]["input"] = "far " * 100
    too_long = write_task(tmp_path / "long", rows)
    run = run_cli("adapt", too_long, *told, "--out", tmp_path / "other")
    assert run.code == 2
    assert "150 tokens" in run.err


ODD = ("card", "card payment", "card payment fee", "cardinal", "ca-rd", "re:card?", "カード", "💳", "12", "1,2", "_x_")


@pytest.mark.parametrize("lacks", [{"chat", "tokenize"}, {"chat"}], ids=["as texts", "as token ids"])
def test_labels_that_share_tokens_or_split_oddly_are_scored_as_their_texts_are(lacks, server):
    server.lacks = lacks
    before, ends = "say card payment then", tuple(f" {label}" for label in ODD)
    (got,) = load_model(server.name).score([ScoreRequest(Prompt((Segment("query", before),)), ends)])
    for value, end in zip(got, ends, strict=True):
        tokens = tokens_of(before) if "tokenize" in lacks else ["", *tokens_of(before)]
        wanted = 0.0
        for token in tokens_of(end):
            wanted += next_log_prob(tokens, token)
            tokens.append(token)
        assert value == pytest.approx(wanted), end


def test_a_task_of_odd_labels_goes_end_to_end_by_each_route(server, tmp_path):
    rows = [{"input": f"number {i} of {len(ODD)}", "output": ODD[i % len(ODD)]} for i in range(33)]
    task = Task.load(write_task(tmp_path / "odd", rows))
    for route, lacks in {"echo": {"chat"}, "letters": {"completions"}, "constrained": {"logprobs", "echo"}}.items():
        server.lacks = lacks | {"tokenize"}
        api = f"route={route},samples=4"
        run = kshot.adapt(
            task, server.name, recipes="random", shots=11, limit=6, out=tmp_path / route, api=api, race=False
        )
        assert [row["status"] for row in run.leaderboard] == ["done"]
        assert set(task.labels) == set(ODD)
        assert run.best.predict(["number 40"])[0] in ODD


def test_prediction_and_evaluation_tell_what_was_paid(server, words_task, tmp_path, run_cli):
    run = run_cli("adapt", words_task, "--model", server.name, "--recipes", "zero-shot", "--out", tmp_path / "run")
    assert "paid:   " in run.out
    asked = write_inputs(tmp_path / "asked.txt", ["a cat", "a saw"])
    answered = run_cli("predict", tmp_path / "run", asked)
    assert "paid: 4 calls, " in answered.err  # two of them to see that the route is as it was
    assert len(answered.out.splitlines()) == 2
    measured = run_cli("evaluate", tmp_path / "run", words_task, "--limit", 3, "--json")
    assert "paid: 5 calls, " in measured.err
    assert measured.json["n"] == 3
    beside = run_cli("evaluate", "recipe:majority", words_task, "--model", "scripted", "--suite", "confidence",
                     "--against", tmp_path / "run", "--limit", 3)  # fmt: skip
    assert "paid: 5 calls, " in beside.err


def test_a_recipe_that_asks_a_model_is_held_against_one_that_asks_none(words_task, run_cli):
    told = ("evaluate", "recipe:majority", words_task, "--model", "scripted", "--suite", "confidence", "--limit", 3)
    done = run_cli(*told, "--against", "recipe:bm25", "--json")
    assert (done.code, done.json["accuracy"]["difference"]["n"]) == (0, 3)


def write_inputs(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(f"{text}\n" for text in texts))
    return file
