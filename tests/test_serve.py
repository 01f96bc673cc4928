"""`kshot serve`: what comes in, what goes out, and what is refused."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from openai import APIStatusError, OpenAI

import api_server
import kshot
from conftest import WORDS, labelled_rows
from kshot.adapted.model import AdaptedModel
from kshot.core.errors import TooLongError, UserError
from kshot.core.types import Example, Prediction, Task
from kshot.learners.learner import Setup
from kshot.measures.abstention import Abstention
from kshot.recipes.grammar import parse_recipe
from kshot.serve.application import application
from kshot.serve.batching import Batcher, BusyError, StoppingError
from kshot.serve.listening import KEY, Connection, _config, _Server, bound, hosts_of, key_of, served
from kshot.serve.plain_endpoints import _predicted
from kshot.serve.questions import NotLearntError, Question, confidence, learnt, true_label
from kshot.serve.served import Served
from kshot.taskmodel.taskmodel import TaskModel

LABELS = list(WORDS)
TRAIN = tuple(Example(row["input"], row["output"], f"e{i}") for i, row in enumerate(labelled_rows(12)))
WORDS_TASK = Task("words", "classification", TRAIN, labels=tuple(WORDS), instruction="Say what kind of thing it is.")


def adapted(recipe: str = "random:k=4", task: Task = WORDS_TASK, model: str | None = "tiny") -> AdaptedModel:
    asked = TaskModel.for_task(task, kshot.load_model(model)) if model else None
    return AdaptedModel.fit(parse_recipe(recipe, shots=4), task.train, Setup(task, asked, 0), choice={})


@pytest.fixture(scope="module")
def model() -> AdaptedModel:
    return adapted()


@contextmanager
def running(own: Served, host: str = "127.0.0.1", log: Callable[[str], None] | None = None) -> Iterator[httpx2.Client]:
    """Serve in a thread, and end in the orderly way."""
    listening, ready = bound(host, 0), threading.Event()
    hosts = hosts_of(host) if own.key is None else None
    server = _Server(_config(application(own, hosts=hosts, log=log)), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    address = f"http://{host}:{listening.getsockname()[1]}"
    thread.start()
    try:
        assert ready.wait(20)
        with httpx2.Client(base_url=address, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
    assert not own.batcher._thread.is_alive()


@pytest.fixture(scope="module")
def client(model) -> Iterator[httpx2.Client]:
    with running(served(model.warm(), "words")) as client:
        yield client


@pytest.fixture(scope="module")
def openai(client) -> OpenAI:
    return OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    return {"status": response.status_code, **response.json()["error"]}


def choice(options: Sequence[str | bool], **more: Any) -> Any:
    return {"type": "choice", "instructions": "which?", "choices": [{"value": o} for o in options], **more}


# --- decisions


def test_the_real_sdk_gets_the_probabilities_of_predict_proba(openai, model):
    text = "the cat and the soup, number 77"
    expected = dict(zip(LABELS, model.predict_proba([text])[0], strict=True))
    levels = [{"label": label} for label in reversed(LABELS)]
    asked = [
        choice(["tool", "food", "animal"], name="kind"),
        {"type": "score", "instructions": "how high?", "levels": levels},
    ]
    found = openai.decisions.create(model="words", input=text, questions=asked)
    kind, level = found.answers
    assert kind.type == "choice"
    assert kind.name == "kind"
    assert [p.value for p in kind.probabilities] == ["tool", "food", "animal"]
    assert [p.probability for p in kind.probabilities] == pytest.approx(
        [expected[k] for k in ("tool", "food", "animal")], abs=1e-5
    )
    assert kind.choice == max(expected, key=lambda label: expected[label])
    assert kind.confidence == pytest.approx((max(expected.values()) - 1 / 3) * 1.5, abs=1e-5)
    assert level.type == "score"
    assert level.score == pytest.approx(expected["food"] + 2 * expected["animal"], abs=1e-4)
    assert found.usage.total_tokens == found.usage.input_tokens > 0


def test_several_questions_ask_the_model_once(model):
    counted: list[int] = []

    class Counting:
        def predictions(self, inputs: Sequence[Example]) -> list[Prediction]:
            counted.append(len(inputs))
            return model.predictions(inputs)

    own = served(model, "words")
    own = replace(own, batcher=Batcher(Counting()))
    with running(own) as client:
        body = {
            "model": "words",
            "input": "the saw",
            "questions": [choice(LABELS), choice(LABELS[::-1]), choice(["a", "b"])],
        }
        answers = client.post("/v1/decisions", json=body).json()["answers"]
    assert [a["type"] for a in answers] == ["choice", "choice", "refusal"]
    assert counted == [1]


def test_what_was_not_learnt_is_refused_with_the_reason_and_the_rest_is_answered(openai):
    asked = [
        choice(LABELS),
        choice([*LABELS, "other"]),
        choice(LABELS[:2]),
        {"type": "predicate", "instructions": "is it?"},
    ]
    answers = openai.decisions.create(model="words", input="the saw", questions=asked).answers
    assert [a.type for a in answers] == ["choice", "refusal", "refusal", "refusal"]
    reasons = [a.to_dict().get("reason", "") for a in answers]
    assert "learnt to choose among animal, food, tool; these are other options" in reasons[1]
    assert reasons[2] == reasons[1]
    assert "Ask as a choice" in reasons[3]


def test_a_yes_no_task_is_a_predicate_asked_in_its_words():
    train = tuple(Example(f"is {i} odd?", "yes" if i % 2 else "no", f"e{i}") for i in range(8))
    task = Task("odd", "classification", train, labels=("no", "yes"), instruction="Say whether it is odd.")
    said = adapted("tfidf-lr", task, None)
    with running(served(said, "odd")) as client:
        asked = [
            {"type": "predicate", "instructions": "say whether it is  odd"},
            {"type": "predicate", "instructions": "Is it raining?"},
            {"type": "predicate", "instructions": "whatever", "name": "odd"},
            choice([False, True]),
        ]
        answers = client.post("/v1/decisions", json={"model": "odd", "input": "is 3 odd?", "questions": asked}).json()[
            "answers"
        ]
        state = {
            "q": {"type": "noul", "instructions": "Say whether it is odd."},
            "odd": {"type": "noul"},
            "x": {"type": "noul"},
        }
        old = client.post("/v1/systemone", json={"state": "is 3 odd?", "questions": state}).json()["answers"]
    expected = float(said.predict_proba(["is 3 odd?"])[0, 1])
    assert answers[0]["probability"] == answers[2]["probability"] == pytest.approx(expected)
    assert answers[1]["type"] == "refusal"
    assert "cannot tell this one from others" in answers[1]["reason"]
    assert [p["probability"] for p in answers[3]["probabilities"]] == pytest.approx([1 - expected, expected])
    assert old["q"] == old["odd"] == {"type": "noul", "noul": pytest.approx(expected)}
    assert old["x"]["type"] == "refusal"


def test_a_choice_is_the_answer_that_all_other_ways_of_asking_give():
    """Also of labels that are equally probable, in whatever order they are asked, and of ordered ones' median."""
    outputs = ["low", "low", "medium", "high", "high"]
    train = tuple(Example(f"row {i}", output, f"e{i}") for i, output in enumerate(outputs))
    task = Task("levels", "classification", train, labels=("low", "medium", "high"))
    ordered = replace(task, ordered=True, answer="median")
    for own, answer in ((task, "low"), (ordered, "medium")):
        said = adapted("majority", own, None)
        assert said.predict(["a row"]) == [answer]
        with running(served(said, "levels")) as client:
            for labels in (list(task.labels), list(task.labels[::-1])):
                body = {"model": "levels", "input": "a row", "questions": [choice(labels)]}
                state = {"type": "choice", "criteria": dict.fromkeys(labels)}
                new = client.post("/v1/decisions", json=body).json()["answers"][0]
                old = client.post("/v1/systemone", json={"state": "a row", "questions": {"q": state}}).json()["answers"]
                assert new["choice"] == old["q"]["choice"] == answer
                assert [p["value"] for p in new["probabilities"]] == list(old["q"]["probabilities"]) == labels


def test_systemone_has_its_own_shape(client, model):
    questions = {
        "kind": {"type": "choice", "instructions": {"what": "?"}, "criteria": {label: None for label in LABELS}},
        "level": {"type": "score", "criteria": LABELS},
    }
    body = {"state": {"input": "the cat"}, "questions": questions}
    found = client.post("/v1/systemone", json=body).json()
    expected = model.predict_proba(["the cat"])[0].tolist()
    assert list(found["answers"]["kind"]["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert found["answers"]["level"]["legend"] == {"0": "animal", "1": "food", "2": "tool"}
    assert found["answers"]["level"]["score"] == pytest.approx(expected[1] + 2 * expected[2], abs=1e-4)


@pytest.mark.parametrize(
    ("question", "remedy"),
    [
        ({"type": "choice", "criteria": LABELS}, 'as its value: {"spam": null, …}.'),
        ({"type": "choice"}, 'as its value: {"spam": null, …}.'),
        ({"type": "score", "criteria": dict.fromkeys(LABELS)}, 'to the highest, each once: ["low", "high", …].'),
        ({"type": "score", "criteria": ["food", "food"]}, 'to the highest, each once: ["low", "high", …].'),
        ({"type": "predicate"}, "or of the type score or noul."),
    ],
)
def test_systemone_says_what_shape_is_wanted(client, question, remedy):
    found = client.post("/v1/systemone", json={"state": "the cat", "questions": {"kind": question}})
    assert error_of(found)["status"] == 400
    assert error_of(found)["message"].endswith(remedy)
    other = client.post(
        "/v1/systemone", json={"state": {"message": "the cat"}, "questions": {"kind": {"type": "noul"}}}
    )
    assert error_of(other)["message"].startswith(
        "'state.input' is not as it must be: Field required. Send the input's text, or {\"input\": text}"
    )


def test_systemone_takes_what_its_documentation_has(client):
    """Instructions that are null, descriptions of any kind, levels without one: the last are no labels, so refused."""
    said = {"animal": "It lives.", "food": None, "tool": {"for": ["work"]}}
    questions = {
        "kind": {"type": "choice", "instructions": None, "criteria": said},
        "level": {"type": "score", "criteria": [None, None, {"high": 1}]},
    }
    answers = client.post("/v1/systemone", json={"state": "the cat", "questions": questions}).json()["answers"]
    assert answers["kind"]["choice"] in LABELS
    assert "It was learnt to choose among animal, food, tool" in answers["level"]["reason"]


@pytest.mark.parametrize(
    ("threshold", "below", "reason"),
    [
        (0.999, 0.999, "unsure: the answer that it would give has the probability 0."),
        (None, 1.0, "unsure: of no probability can it be promised that 95 % of its answers are right"),
    ],
)
def test_an_unsure_model_refuses(model, threshold, below, reason):
    careful = AdaptedModel(model.fitted, choice={}, abstention=Abstention(0.95, threshold))
    with running(served(careful, "words")) as client:
        body = {"model": "words", "input": "the saw", "questions": [choice(LABELS)]}
        (answer,) = client.post("/v1/decisions", json=body).json()["answers"]
        chat = {"model": "words", "messages": [{"role": "user", "content": "the saw"}]}
        message = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]
        text = client.post("/v1/completions", json={"model": "words", "prompt": "the saw"}).json()["choices"][0]["text"]
        predicted = client.post("/predict", json={"inputs": ["the saw"]}).json()["predictions"][0]
        counted, about = client.get("/metrics").text, client.get("/about").json()
    assert answer["type"] == "refusal"
    assert answer["reason"].startswith(reason)
    assert about["abstains_below"] == below
    assert message["content"] is None
    assert message["refusal"] == answer["reason"]
    assert text == "unsure"
    assert predicted["unsure"]
    assert predicted["answer"] is None
    assert "kshot_abstained_total 4.0" in counted


def test_a_multiple_choice_task_takes_the_choices_of_the_question():
    rows = [Example(f"what is {i} and 1?", str(i + 1), f"e{i}", choices=(str(i + 1), str(i))) for i in range(6)]
    task = Task("quiz", "multiple_choice", tuple(rows), choices_in_input=False)
    quiz = adapted("zero-shot", task)
    asked = [choice(["7", "9", "8"], name="quiz"), choice(["7", "9"]), choice(["7", " "], name="quiz")]
    with running(served(quiz, "quiz")) as client:
        body = {"model": "quiz", "input": "what is 7 and 1?", "questions": asked}
        answers = client.post("/v1/decisions", json=body).json()["answers"]
    (expected,) = quiz.predict_proba([{"input": "what is 7 and 1?", "choices": ["7", "9", "8"]}])
    assert [p["probability"] for p in answers[0]["probabilities"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert "Ask with name 'quiz'" in answers[1]["reason"]
    assert "'choices' item 2 must not be empty" in answers[2]["reason"]  # and the others are answered


def test_labels_say_yes_only_where_they_do():
    task = replace(WORDS_TASK, labels=("a", "b"))
    assert true_label(task) is None
    assert true_label(replace(task, positive_label="b")) == "b"
    assert true_label(replace(task, labels=("False", "True"))) == "True"
    assert confidence([0.25] * 4) == 0
    assert confidence([1.0, 0.0]) == 1
    with pytest.raises(NotLearntError, match="its answers are written"):
        learnt(replace(WORDS_TASK, kind="qa", labels=()), Question(("a", "b"), ""))


# --- OpenAI's API


def test_chats_and_completions_answer_the_input(openai, model):
    text = "the drill and the saw, number 5"
    (expected,) = model.predictions([text])
    chat = openai.chat.completions.create(
        model="words", messages=[{"role": "user", "content": text}], logprobs=True, top_logprobs=3
    )
    assert chat.choices[0].message.content == expected.answer
    (token,) = chat.choices[0].logprobs.content
    assert token.token == expected.answer
    assert token.logprob == pytest.approx(np.log(max(expected.probs)), abs=1e-5)
    assert sum(np.exp(t.logprob) for t in token.top_logprobs) == pytest.approx(1)
    both = openai.completions.create(model="words", prompt=[text, "the cat"], logprobs=1)
    assert [c.text for c in both.choices] == model.predict([text, "the cat"])
    assert both.choices[0].logprobs.token_logprobs == pytest.approx([token.logprob], abs=1e-5)


def test_streams_have_the_answer_in_one_piece(openai, model):
    (expected,) = model.predict(["the cat"])
    chunks = list(
        openai.chat.completions.create(
            model="words",
            messages=[{"role": "user", "content": [{"type": "text", "text": "the cat"}]}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert [c.choices[0].delta.content for c in chunks[:-1]] == [expected, None]
    assert chunks[1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 0
    texts = [c.choices[0].text for c in openai.completions.create(model="words", prompt="the cat", stream=True)]
    assert texts == [expected]


def test_a_name_with_a_slash_is_found(model):
    with running(served(model, "home/my words")) as client:
        openai = OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
        assert openai.models.retrieve("home/my words").id == "home/my words"
        assert client.get("/v1/models/home/my%20words").json()["id"] == "home/my words"
        assert client.get("/v1/models/").json()["data"][0]["id"] == "home/my words"
        assert error_of(client.get("/v1/models/home/other"))["code"] == "model_not_found"


def test_the_model_is_listed_under_its_name(openai):
    assert [m.id for m in openai.models.list()] == ["words"]
    assert openai.models.retrieve("words").id == "words"
    with pytest.raises(APIStatusError, match="The model here is 'words'"):
        openai.models.retrieve("gpt-6-luna")


def test_an_open_task_writes_and_has_no_logprobs():
    rows = tuple(Example(f"say {i}", str(i), f"e{i}") for i in range(6))
    task = Task("echo", "generation", rows, metrics=("exact_match",))
    said = adapted("random:k=2", task)
    with running(served(said.warm(), "echo")) as client:
        message = [{"role": "user", "content": "say 3"}]
        found: Any = None
        for _ in range(3):  # the second and third after what is kept
            found = client.post("/v1/chat/completions", json={"model": "echo", "messages": message}).json()
            assert found["choices"][0]["message"]["content"] == said.predict(["say 3"])[0]
        refused = client.post("/v1/chat/completions", json={"model": "echo", "messages": message, "logprobs": True})
        (written,) = said.predict(["say 3"])
        assert said.model
        n = said.model.count_tokens(written)
        assert found["usage"]["completion_tokens"] == n > 1
        short = client.post("/v1/chat/completions", json={"model": "echo", "messages": message, "max_tokens": n - 1})
        assert error_of(short)["message"].endswith(f"{n - 1} are allowed. Allow {n} or more.")
        decided = client.post("/v1/decisions", json={"model": "echo", "input": "x", "questions": [choice(["a", "b"])]})
    assert "logprobs need a task with labels" in error_of(refused)["message"]
    assert "its answers are written" in decided.json()["answers"][0]["reason"]


def test_a_label_is_one_token(openai, model):
    """Whatever the model's own tokenizer makes of it: clients ask classifiers with max_tokens=1."""
    (answer,) = model.predict(["the cat"])
    assert model.model
    assert model.model.count_tokens(answer) > 1
    chat = openai.chat.completions.create(
        model="words", messages=[{"role": "user", "content": "the cat"}], max_tokens=1
    )
    assert chat.choices[0].message.content == answer
    assert chat.usage.completion_tokens == 1
    three = openai.completions.create(model="words", prompt=["the cat", "the saw", "the soup"], max_tokens=1)
    assert three.usage.completion_tokens == 3


ALONE = (
    'Send one message alone, {"role": "user", "content": the input\'s text}: instruction and demonstrations are the '
    "model's own."
)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"temperature": 0.7}, "temperature must be 0"),
        ({"n": 2}, "Input should be 1"),
        ({"tools": []}, "There is no field 'tools' here"),
        ({"max_tokens": 0}, "Send a whole number from 1 on, or leave it out."),
        ({"top_logprobs": 3}, "top_logprobs must come with logprobs"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, f"Input should be 'user'. {ALONE}"),
        (
            {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}]},
            f"'messages' is not as it must be: List should have at most 1 item, not 2. {ALONE}",
        ),
        ({"messages": [{"role": "user"}]}, f"'messages.0.content' is not as it must be: Field required. {ALONE}"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content"),
    ],
)
def test_what_cannot_be_honoured_is_refused(client, more, message):
    body = {"model": "words", "messages": [{"role": "user", "content": "the cat"}]} | more
    found = error_of(client.post("/v1/chat/completions", json=body))
    assert found["status"] == 400
    assert message in found["message"]
    assert found["type"] == "invalid_request_error"


# --- /predict, the page, the document


def test_what_is_drawn_for_an_input_depends_on_its_text_here_and_in_python(run_cli, tmp_path):
    """Of a selector that draws anew for each query: whatever the place, and beside whatever others."""
    fresh = adapted("random:k=2,fresh=true")
    texts = ["red lion walks", "green car", "blue apple tastes", "red lion walks"]
    expected = fresh.predict_proba(texts)
    assert fresh.predict_proba(texts[::-1])[::-1] == pytest.approx(expected, abs=1e-5)
    assert expected[0] == pytest.approx(expected[3], abs=1e-5)
    own = [p.probs for p in fresh.predictions([{"input": texts[0], "id": name} for name in "abcdef"])]
    assert len(np.unique(np.round(own, 4), axis=0)) > 1  # an id that is given counts as ever
    with running(served(fresh.warm(), "words")) as client:
        rows = [{"input": texts[0], "id": name} for name in "abcdef"]
        found = client.post("/predict", json={"inputs": rows}).json()["predictions"]
        for row, probs in zip(found, own, strict=True):
            assert list(row["probabilities"].values()) == pytest.approx(probs, abs=1e-5)
        assert client.post("/predict", json={"inputs": [{"input": texts[0], "id": 7}]}).status_code == 200
        for some in (texts, texts[1:], texts[:1]):
            found = client.post("/predict", json={"inputs": some}).json()["predictions"]
            at = [texts.index(text) for text in some]
            assert [list(p["probabilities"].values()) for p in found] == [
                pytest.approx(expected[i].tolist(), abs=1e-5) for i in at
            ]
    fresh.save(tmp_path / "fresh")
    rows = [{"input": texts[0]}, {"input": f" {texts[1]}"}, {"input": texts[2], "id": "c"}, {"input": texts[3]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for args, typed, asked, third in (
        ((), {"input": "\n".join(texts)}, texts, "input-3"),
        ((tmp_path / "in.jsonl",), {}, rows, "c"),
    ):
        found = run_cli("predict", tmp_path / "fresh", *args, "--json", **typed).json["predictions"]
        assert [p["id"] for p in found] == ["input-1", "input-2", third, "input-4"]
        wanted = fresh.predict_proba(asked)
        assert np.array([list(p["probs"].values()) for p in found]) == pytest.approx(wanted, abs=1e-5)


def test_predict_has_probabilities_and_what_was_shown(client, model):
    texts = ["the cat", {"input": "the soup"}]
    found = client.post("/predict", json={"inputs": texts, "show": True}).json()["predictions"]
    assert [f["answer"] for f in found] == model.predict(texts)
    assert np.array([list(f["probabilities"].values()) for f in found]) == pytest.approx(
        model.predict_proba(texts), abs=1e-5
    )
    (context,) = found[0]["contexts"]
    shown = {e.input: e.output for e in model.pool}
    assert {e["input"]: e["output"] for e in context} == shown


def test_predict_tells_how_much_contexts_disagree_and_how_sure_an_answer_says_it_is():
    said = adapted("random:k=2,contexts=3")
    with running(served(said, "words")) as client:
        (found,) = client.post("/predict", json={"inputs": ["the cat"]}).json()["predictions"]
    assert found["disagreement"] == pytest.approx(said.predictions(["the cat"])[0].disagreement)
    written = replace(said.predictions(["the cat"])[0], stated=0.25, disagreement=None)
    told = _predicted(served(said, "words"), written, show=False)
    assert (told.stated, told.disagreement) == (0.25, None)


def test_what_is_answered_does_not_depend_on_when_it_came(client):
    """A per-query draw depends on the input alone."""
    said = adapted("bm25:k=3,order=shuffled")
    with running(served(said, "words")) as client:
        alone = client.post("/predict", json={"inputs": ["the cat"], "show": True}).json()["predictions"][0]
        beside = client.post("/predict", json={"inputs": ["the saw", "the cat"], "show": True}).json()["predictions"][1]
    assert alone["contexts"] == beside["contexts"]


def test_an_answer_is_sent_at_once(client):
    """Head and body in two packets, the second of which waits for the first's receipt, would take 40 ms."""
    seconds = []
    for _ in range(60):  # the first receipts are never late
        start = time.perf_counter()
        client.get("/health")
        seconds.append(time.perf_counter() - start)
    assert min(seconds[40:]) < 0.03


def test_the_page_and_what_it_asks(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/about").json()["labels"] == LABELS
    assert client.get("/health").json() == {"status": "ok", "model": "words", "waiting": 0}
    client.post("/predict", json={"inputs": ["the cat"]})
    counted = client.get("/metrics").text
    assert 'kshot_requests_total{endpoint="/predict",status="200"}' in counted
    assert "kshot_batch_inputs_count" in counted


def against_its_document(examples: int) -> set[str]:
    """Ask the server what its own document allows and forbids; return each path with the statuses that came back."""
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    own = served(adapted("majority", model=None), "words", key="k" * 16)
    schema = schemathesis.openapi.from_asgi("/openapi.json", application(own))
    seen: set[str] = set()
    for found in schema.get_all_operations():

        @given(case=found.ok().as_strategy())
        @settings(
            max_examples=examples,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case):
            response = case.call(headers={"Authorization": "Bearer " + "k" * 16})
            seen.add(f"{case.path} {response.status_code}")
            # What no schema can say is refused too: options that are there twice, another model's name
            case.validate_response(response, excluded_checks=[positive_data_acceptance])

        check()
    own.batcher.stop()
    return seen


def test_the_document_holds():
    assert {"/predict 200", "/health 200", "/v1/models/{name} 404"} <= against_its_document(2)


@pytest.mark.slow
def test_the_document_holds_for_long():
    assert {"/v1/systemone 200", "/v1/decisions 404"} <= against_its_document(100)


@pytest.mark.slow
def test_the_page_in_a_browser(model, tmp_path):
    """Chromium asks what the address says, shows bars and contexts, and has nothing to complain of."""
    chromium = shutil.which("chromium")
    assert chromium, "this check needs Chromium: apt-get install chromium"
    with running(served(model.warm(), "words")) as client:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path}"]  # fmt: skip
        command = [chromium, *flags, "--dump-dom", f"{client.base_url}/#the cat and <b>the dog</b>"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count('class="bar"') == 3
    assert "4 examples shown" in done.stdout
    assert f'<p class="answer">{model.predict(["the cat and <b>the dog</b>"])[0]}</p>' in done.stdout


# --- bad requests


def test_python_tells_the_place_of_a_text_that_is_too_long(model):
    for inputs, which in ((["the cat", "word " * 2000], "number 2"), ([{"input": "word " * 2000, "id": "a"}], "'a'")):
        with pytest.raises(TooLongError, match=rf"context of 4096 tokens; (example )?{which} needs \d+ with the inst"):
            model.predict(inputs)


def test_malformed_giant_and_strange_bodies(client):
    def post(path: str = "/predict", **more: Any) -> dict[str, Any]:
        return error_of(client.post(path, **more))

    kind = {"content-type": "application/json"}
    assert (
        "must be application/json; got 'text/plain'"
        in post(content="x", headers={"content-type": "text/plain"})["message"]
    )
    assert post(content="{'a'", headers=kind)["message"].startswith("The body must be JSON; ")
    assert post(content=b"\xff\xfe", headers=kind)["status"] == 400
    assert post(json=[1])["message"].startswith("'body' is not as it must be")
    assert post(json={"inputs": []})["status"] == 400
    assert post(json={"inputs": ["a"], "temprature": 1})["message"] == (
        "There is no field 'temprature' here; known: inputs, show. Leave it out."
    )
    found = post(content=b"[" * 2_000_000, headers=kind)
    assert found["status"] == 413
    assert "1048576 bytes at most" in found["message"]
    chunked = post(content=iter([b" " * 700_000] * 2), headers=kind)
    assert chunked["status"] == 413
    found = post(json={"inputs": ["the cat", "word " * 20_000]})
    assert found["status"] == 400
    assert re.fullmatch(
        r"An input must fit the model's context of \d+ tokens; input 2 of the request needs \d+ with the instruction. "
        r"Shorten it\.",
        found["message"],
    )
    assert post(json={"inputs": ["a\0b"]})["message"].endswith("remove it.")
    for path, status in (("/nothing", 404), ("/predict", 405)):
        assert error_of(client.get(path))["status"] == status
    body = {"model": "words", "input": "x", "questions": [choice([str(i) for i in range(300)])]}
    assert "at most 255 items" in post("/v1/decisions", json=body)["message"]
    assert (
        "each must be there once" in post("/v1/decisions", json=body | {"questions": [choice(["a", "a"])]})["message"]
    )
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]
    assert (
        "input_image" in post("/v1/decisions", json=body | {"input": image, "questions": [choice(LABELS)]})["message"]
    )


def test_other_sites_cannot_reach_a_local_server(client):
    other = client.get("/health", headers={"host": "evil.example"})
    assert error_of(other)["status"] == 400
    assert error_of(other)["message"] == (
        "Without a key the server must be called by a name of this machine; got 'evil.example'. Use localhost or "
        "127.0.0.1, or set KSHOT_SERVE_KEY."
    )
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:8000", "[::1]"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    for host in ("", "localhost.evil.example", "[::2]", "::1", "evil.example:127.0.0.1"):
        assert client.get("/health", headers={"host": host}).status_code == 400


def test_paths_that_are_not_there_are_counted_as_other(model):
    own = served(model, "words")
    with running(own) as client:
        for path, host in (("/a", "localhost"), ("/b", "localhost"), ("/predict", "localhost"), ("/health", "evil")):
            client.get(path, headers={"host": host})
        counted = client.get("/metrics").text
    assert 'kshot_requests_total{endpoint="other",status="404"} 2.0' in counted
    assert 'kshot_requests_total{endpoint="other",status="405"} 1.0' in counted
    assert 'kshot_requests_total{endpoint="other",status="400"} 1.0' in counted
    assert '"/a"' not in counted


def test_each_request_is_a_line_of_the_log_without_texts(model):
    lines: list[str] = []
    with running(served(model, "words"), log=lines.append) as client:
        client.post("/predict?q=secret", json={"inputs": ["a secret text"]})
        client.get("/nothing%0ahere" + "x" * 300)
        client.post("/v1/completions", json={"model": "words", "prompt": "secret", "stream": True}).read()
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "POST /predict 200",
        f"GET /nothing?here{'x' * 187} 404",
        "POST /v1/completions 200",
    ]
    assert all(re.fullmatch(r"\d+ ms", " ".join(line.split()[-2:])) for line in lines)


def spoken(client: httpx2.Client, sent: bytes, *, ends: bool) -> bytes:
    """Send bytes, end the way out if so wanted, and return all that comes back."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as line:
        line.sendall(sent)
        if ends:
            line.shutdown(socket.SHUT_WR)
        found = b""
        while part := line.recv(65536):
            found += part
        return found


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def test_half_closed_and_half_sent_requests(model, monkeypatch):
    monkeypatch.setattr(Connection, "head_seconds", 0.2)
    own = replace(served(model, "words"), most_seconds=0.2)
    body = json.dumps({"inputs": ["the cat"]}).encode()
    with running(own) as client:
        answered = spoken(client, HEAD % len(body) + body, ends=True)
        assert answered.startswith(b"HTTP/1.1 200")
        assert b'"answer"' in answered
        for ends in (True, False):
            late = spoken(client, HEAD % len(body) + body[:9], ends=ends)
            assert late.startswith(b"HTTP/1.1 408")
            assert b"A body must be sent within 0.2 s; 9 bytes of it came. Send all of it." in late
        assert spoken(client, b"POST /predict HTTP/1.1\r\nHost: lo", ends=False) == b""
        assert spoken(client, b"no http at all\r\n\r\n", ends=False).startswith(b"HTTP/1.1 400")
        assert client.get("/health").status_code == 200


# --- the queue


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go, self.calls = threading.Semaphore(0), list[list[str]]()
        self.asked = threading.Semaphore(0)

    def predictions(self, inputs: Sequence[Example]) -> list[Prediction]:
        self.calls.append([e.input for e in inputs])
        self.asked.release()
        self.go.acquire()
        if any(e.input == "bad" for e in inputs):
            raise UserError("This input is bad. Change it.")
        return [Prediction(e.id, ("a", "b"), (0.0, -1.0), (0.7, 0.3), "a") for e in inputs]


def submitted(batcher: Batcher, *texts: str) -> "Future[list[Prediction]]":
    return batcher.submit([Example(text, "", text) for text in texts])


def test_what_waits_is_asked_together_and_bad_inputs_harm_no_others():
    slow = Slow()
    batcher = Batcher(slow, most_waiting=6, most_together=3)
    first = submitted(batcher, "1")
    slow.asked.acquire()
    rest = [submitted(batcher, *texts) for texts in (["2"], ["bad"], ["4", "5"], ["6"])]
    gone = submitted(batcher, "7")
    assert gone.cancel()
    assert batcher.waiting == 5
    with pytest.raises(BusyError):
        submitted(batcher, "8", "9")
    slow.go.release(20)
    assert first.result(5)[0].answer == "a"
    assert len(rest[2].result(5)) == 2
    assert rest[3].result(5)[0].example_id == "6"
    with pytest.raises(UserError, match="This input is bad"):
        rest[1].result(5)
    batcher.stop()
    assert slow.calls == [["1"], ["2", "bad"], ["2"], ["bad"], ["4", "5", "6"]]
    with pytest.raises(StoppingError):
        submitted(batcher, "10")


def test_a_full_queue_says_when_to_come_again_and_stopping_answers_what_has_come(model):
    slow = Slow()
    own = replace(served(model, "words", most_waiting=1), batcher=Batcher(slow, most_waiting=1))
    found: list[int] = []

    def post(client: httpx2.Client) -> None:
        found.append(httpx2.post(f"{client.base_url}/predict", json={"inputs": ["the cat"]}, timeout=30).status_code)

    with running(own) as client:
        threads = [threading.Thread(target=post, args=(client,)) for _ in range(2)]
        threads[0].start()
        slow.asked.acquire()
        threads[1].start()
        while not own.batcher.waiting:
            threading.Event().wait(0.005)
        refused = client.post("/predict", json={"inputs": ["the dog"]})
        assert error_of(refused)["status"] == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "There must be room in the queue" in error_of(refused)["message"]
        threading.Timer(0.3, slow.go.release, [9]).start()  # the server is ending meanwhile
    for thread in threads:
        thread.join()
    assert found == [200, 200]


def test_who_still_waits_when_the_server_must_end_at_once_is_told_so_and_counted(model):
    slow = Slow()
    own = replace(served(model, "words"), batcher=Batcher(slow))
    listening, ready, found = bound("127.0.0.1", 0), threading.Event(), list[httpx2.Response]()
    server = _Server(_config(application(own)), ready.set)
    ending = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/predict"
    asking = threading.Thread(target=lambda: found.append(httpx2.post(url, json={"inputs": ["the cat"]}, timeout=30)))
    ending.start()
    assert ready.wait(20)
    asking.start()
    slow.asked.acquire()
    server.force_exit = server.should_exit = True  # as two Ctrl-C do
    ending.join()
    asking.join()
    slow.go.release()
    own.batcher.stop()
    told = {"status": 503, "message": "The server is ending. Send it to another one.", "type": "server_error"}
    assert error_of(found[0]) == told | {"param": None, "code": None}
    assert own.counts.cut_short == 1


def test_an_input_that_a_service_refuses_costs_others_nothing_and_its_sender_is_told_why(monkeypatch, tmp_path):
    """Many in one batch before it: each of theirs is asked once."""
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path))
    monkeypatch.delenv("KSHOT_API_KEY", raising=False)
    with api_server.served(api_server.ApiServer()) as service:
        service.lacks |= {"completions"}
        remote = adapted("zero-shot", model=service.name)
        remote.predictions(["the first"])
        held, found = threading.Event(), list[httpx2.Response]()

        def change(path: str, body: Any, answer: Any) -> Any:
            if "the first" in str(body):
                held.wait(10)
            if "DOWN" in str(body):
                return api_server.refused(501, "not today")
            return api_server.refused(400, "content filter") if "POISON" in str(body) else answer

        service.change = change
        own = served(remote.warm(), "words")
        with running(own) as client:
            texts = ["the first", *(f"text {i}" for i in range(6)), "POISON", *(f"text {i}" for i in range(6, 12))]

            def ask(text: str) -> None:
                found.append(client.post("/predict", json={"inputs": [text]}))

            threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
            n = service.counts["/v1/chat/completions"]
            threads[0].start()
            while service.counts["/v1/chat/completions"] == n:  # it is under way
                threads[0].join(0.01)
            for thread in threads[1:]:
                thread.start()
            while own.batcher.waiting < len(texts) - 1:
                threads[0].join(0.01)
            held.set()
            for thread in threads:
                thread.join(20)
            assert service.counts["/v1/chat/completions"] - n <= len(texts) + 1  # the bad one twice
            assert sorted(r.status_code for r in found) == [200] * (len(texts) - 1) + [400]
            told = error_of(next(r for r in found if r.status_code == 400))["message"]
            assert told.endswith("must take the input; it refuses (400): content filter. Send another input.")
            assert error_of(client.post("/predict", json={"inputs": ["DOWN"]}))["status"] == 502


def test_a_failure_of_ours_is_told_without_texts(model, capfd):
    class Broken:
        def predictions(self, inputs: Sequence[Example]) -> list[Prediction]:
            raise RuntimeError(f"cannot do {inputs[0].input}")

    own = replace(served(model, "words"), batcher=Batcher(Broken()))
    with running(own) as client:
        found = error_of(client.post("/predict", json={"inputs": ["a secret text"]}))
    assert found["status"] == 500
    assert "RuntimeError" in found["message"]
    logged = capfd.readouterr().err
    assert "RuntimeError" in logged
    assert "secret" not in logged + found["message"]


# --- who may come


def test_a_key_is_needed_where_others_can_come():
    assert key_of("127.0.0.1", {}) is None
    assert key_of("localhost", {}) is None
    assert key_of("::1", {}) is None
    assert key_of("0.0.0.0", {KEY: "k" * 16}) == "k" * 16
    for host in ("0.0.0.0", "192.168.1.2", "example.org"):
        with pytest.raises(UserError, match=f"--host {host} can be reached by others, .* {KEY} is not set"):
            key_of(host, {})
    with pytest.raises(UserError, match="must have 16 characters or more") as told:
        key_of("127.0.0.1", {KEY: "tooshort"})
    assert "tooshort" not in str(told.value)


def test_requests_must_bring_the_key(model):
    with running(served(model, "words", key="k" * 16)) as client:
        for path in ("/about", "/metrics", "/v1/models"):
            found = client.get(path)
            assert error_of(found)["status"] == 401
            assert found.headers["www-authenticate"] == "Bearer"
        wrong = client.get("/about", headers={"authorization": "Bearer " + "x" * 16})
        assert "must bring the server's key" in error_of(wrong)["message"]
        assert client.get("/about", headers={"authorization": "Bearer " + "k" * 16}).status_code == 200
        assert client.get("/about", headers={"authorization": "bearer  " + "k" * 16}).status_code == 200
        for bare in ("k" * 16, "Basic " + "k" * 16, "Bearer", ""):
            assert client.get("/about", headers={"authorization": bare}).status_code == 401


@pytest.mark.skipif(sys.platform != "linux", reason="others have no loopback address but 127.0.0.1 by default")
def test_every_loopback_address_is_this_machine(model):
    with running(served(model, "words"), "127.0.0.2") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"host": "127.0.0.3"}).status_code == 400
        assert client.get("/health", headers={"host": "example.org"}).status_code == 400
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200


def test_a_port_in_use_and_an_address_of_others():
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"something else listens at 127.0.0.1:{port}. Give another --port"):
            bound("127.0.0.1", port)
    with pytest.raises(UserError, match="--host"):
        bound("203.0.113.7", 0)
    with pytest.raises(UserError, match="'no such host' is none"):
        bound("no such host", 0)


def test_the_command_answers_and_ends_in_order(tmp_path):
    adapted("tfidf-lr", model=None).save(tmp_path / "best")
    command = [sys.executable, "-m", "kshot.cli.main", "serve", str(tmp_path / "best"), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"KSHOT_SERVE_KEY": ""})
    assert process.stderr
    told = process.stderr.readline()
    assert re.fullmatch(
        r"'words' is served at (http://127\.0\.0\.1:\d+)/v1 and /predict; try it in a browser at \1/; Ctrl-C ends it\n",
        told,
    )
    address = told.split(" browser at ")[1].split(";")[0]
    assert httpx2.post(f"{address}predict", json={"inputs": ["the cat"]}).json()["predictions"][0]["answer"] in LABELS
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    asked, ended = process.stderr.read().splitlines()
    assert re.fullmatch(r"POST /predict 200 \d+ ms", asked)
    assert ended == "'words' is no longer served; what had come was answered"
    process.stderr.close()


def test_a_missing_package_is_named_with_its_extra(run_cli, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "kshot.serve.listening")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = run_cli("serve", tmp_path)
    assert found.code == 2
    assert "needs the package 'uvicorn'; install it with: pip install 'kshot[serve]'" in found.err


def test_bad_flags(run_cli, tmp_path):
    found = run_cli("serve", tmp_path, "--port", 70000)
    assert found.code == 2
    assert "--port must be within 0..65535" in found.err
    nothing = run_cli("serve", tmp_path / "nothing", "--port", 0)
    assert nothing.code == 2
    assert nothing.err == (
        f"error: There is no folder {tmp_path / 'nothing'}. Give that of a finished run or of an adapted model.\n"
    )


def test_who_left_is_not_answered(model):
    slow = Slow()
    own = replace(served(model, "words"), batcher=Batcher(slow))

    async def leave() -> None:
        body = b'{"inputs": ["the cat"]}'
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        submitted(own.batcher, "first")
        slow.asked.acquire()
        await application(own)(scope, receive, send)
        assert sent[0]["status"] == 499

    asyncio.run(leave())
    assert own.batcher.waiting == 0
    slow.go.release(5)
    own.batcher.stop()
    assert slow.calls == [["first"]]
