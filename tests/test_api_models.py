"""Models behind an API: what is sent, what is read of the answers, what is paid, and what is refused."""

import asyncio
import gc
import json
import math
import multiprocessing
import os
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from starlette.responses import JSONResponse

import kshot
from api_server import ApiServer, echoed, listed, refused, served, tokens_of
from kshot.core.api_settings import ApiSettings, parse_address, parse_api
from kshot.core.budget import Budget
from kshot.core.errors import ModelError, NoAnswerError, RefusedError, SameTokensError, UserError
from kshot.core.ledger import BudgetSpentError, Ledger
from kshot.core.prices import Prices
from kshot.core.settings import RunSettings
from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Segment, Task
from kshot.engine.load_model import load_model
from kshot.models.remote.constrained import Constrained, parsed
from kshot.models.remote.letters import lettered
from kshot.models.remote.pacing import Pace, retry_after, seconds_of
from kshot.models.remote.service import HttpService, same_model
from kshot.store.scores import SqliteStore
from kshot.verbs.prepare import prepare
from variants import mostly_slow

KEY = "sk-very-secret-123"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


pytestmark = pytest.mark.usefixtures("services_alone")


@pytest.fixture(scope="module")
def running():
    with served(ApiServer()) as server:
        yield server


@pytest.fixture
def server(running):
    """The server as it is at first, of which nobody has asked anything."""
    running.asked.clear()
    running.headers.clear()
    running.lacks = {"tokenize"}
    running.change = lambda path, body, answer: answer
    running.model = "repeater"
    return running


@pytest.fixture
def text_server(server):
    """One without chat completions: it is asked by texts."""
    server.lacks |= {"chat"}
    return server


def request(text: str = "a b c a b", *ends: str) -> ScoreRequest:
    return ScoreRequest(Prompt((Segment("query", text),)), ends or (" c", " z"))


def chat(asked: str = "Which ?", *labels: str, shown: tuple[tuple[str, str], ...] = ()) -> ScoreRequest:
    turns = [s for q, a in shown for s in (Segment("demonstration", q), Segment("answer", a))]
    prompt = Prompt((Segment("instruction", "Choose."), *turns, Segment("query", asked)), spells_first_token=True)
    return ScoreRequest(prompt, labels or ("cat", "dog", "cow"))


def settings(**how):
    return RunSettings("task", "openai:m", **how)


# Routes


@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_echoed_continuations_are_scored_as_their_texts_are(text_server, has_tokenizer):
    text_server.lacks -= {"tokenize"} if has_tokenizer else set()
    model = load_model(text_server.name)
    assert model.found.tokenizer == ("vllm" if has_tokenizer else "none")
    asked = [request("a b c a b", " c", " d e"), request("x y", " z", " x y")]
    got = model.score(asked)
    sent = [body["prompt"] for path, body in text_server.asked if path == COMPLETIONS][-1]
    assert all(isinstance(text, list if has_tokenizer else str) for text in sent)
    for row, one in zip(got, asked, strict=True):
        for value, end in zip(row, one.continuations, strict=True):
            values = echoed(tokens_of(one.prompt.text + end))["token_logprobs"]
            assert value == pytest.approx(sum(values[len(tokens_of(one.prompt.text)) :]))


def test_ids_that_are_sent_are_those_of_the_segments(text_server):
    text_server.lacks -= {"tokenize"}
    prompt = Prompt((Segment("demonstration", "ab"), Segment("query", "cd")))  # "abcd" would be one token
    load_model(text_server.name).score([ScoreRequest(prompt, (" e", " f"))])
    ids = text_server.ids
    assert text_server.asked[-1][1]["prompt"] == [[0, ids["ab"], ids["cd"], ids[end]] for end in (" e", " f")]
    assert model_counts(text_server, "ab") == 1


def model_counts(server: ApiServer, text: str) -> int:
    return load_model(server.name).count_tokens(text)


def test_tokens_are_counted_by_the_server_once_or_estimated_from_above(text_server):
    assert model_counts(text_server, "ä b") == 4  # bytes
    text_server.lacks -= {"tokenize"}
    text_server.model = "other"
    assert model_counts(text_server, "a b") == 2
    n = len(text_server.asked)
    assert model_counts(text_server, "a b") == 2
    assert len(text_server.asked) == n


def test_a_label_that_begins_inside_a_token_is_refused(text_server):
    with pytest.raises(
        ModelError, match=r"A label must begin where a token of 'repeater' begins; .*' xyz'.*--api route"
    ):
        load_model(text_server.name).score([request("a xy", "z", "w")])


def test_a_server_that_repeats_nothing_is_found_out(text_server):
    """As llama.cpp's, which takes `echo` and answers with log-probabilities of what it has written."""

    def without_echo(path, body, answer):
        if path == COMPLETIONS:
            for choice in answer["choices"]:
                choice["text"], choice["logprobs"] = " x", {"tokens": [" x"], "token_logprobs": [-1.0]}
        return answer

    text_server.change = without_echo
    with pytest.raises(
        UserError, match=r"none of those tried can\. .*echo: .*must answer the whole text again; it does"
    ):
        load_model(text_server.name)


def test_chance_scores_are_found_out(text_server):
    def alike(path, body, answer):
        if path == COMPLETIONS:
            for choice in answer["choices"]:
                values = choice["logprobs"]["token_logprobs"]
                choice["logprobs"]["token_logprobs"] = [None] + [-3.0] * (len(values) - 1)
        return answer

    text_server.change = alike
    with pytest.raises(UserError, match=r"echo: of a word that is known it says 0\.33, and must say 0\.6 or more"):
        load_model(text_server.name)


def test_letters_stand_for_labels_in_an_order_that_the_shared_part_gives(server):
    model = load_model(server.name)
    assert model.found.routes[0] == "letters"
    shown = (("a red cat", "cat"), ("a big dog", "dog"))
    first, second = chat("the big thing", shown=shown), chat("a red thing", shown=shown)
    rows = model.score([first, second])
    assert [int(np.argmax(row)) for row in rows] == [1, 0]  # the label of the most similar demonstration
    assert np.exp(rows[0]).sum() == pytest.approx(1)
    assert np.exp(rows[0][1]) == pytest.approx(0.8 / 0.9)
    bodies = [body["messages"] for path, body in server.asked if path == CHAT][-2:]
    assert bodies[0][:-1] == bodies[1][:-1]  # what the service can keep
    letters = listed(bodies[0])
    assert letters == lettered(first)
    assert [m["content"] for m in bodies[0] if m["role"] == "assistant"] == [letters["cat"], letters["dog"]]
    assert len({tuple(lettered(chat("q", shown=((f"{i}", "cat"),))).values()) for i in range(20)}) > 3


def test_labels_that_are_letters_stand_for_themselves(server):
    load_model(server.name).score([chat("Which ?", "(A)", "(B)", shown=(("What ?", "(B)"),))])
    messages = server.asked[-1][1]["messages"]
    assert messages[0]["content"].endswith("nothing else:\nA, B")
    assert messages[2]["content"] == "B"


def test_the_mass_on_labels_is_recorded(server, words_task, tmp_path):
    run = kshot.adapt(Task.load(words_task), server.name, recipes="random", limit=6, out=tmp_path / "run")
    asked = json.loads((tmp_path / "run" / "results.json").read_text())["config"]["asked"]
    assert asked["routes"] == ["letters", "constrained"]
    assert asked["trust"] == "labels"
    assert asked["mass"]["mean"] == pytest.approx(0.9)
    assert asked["mass"]["n"] >= 6
    assert 0 < run.paid["cached_tokens"] == 3 * run.paid["calls"] < run.paid["input_tokens"]


def test_letters_that_are_not_told_get_what_is_left(server):
    def without_a_letter(path, body, answer):
        if path == CHAT and body["messages"][-1]["content"] == "missing":
            rows = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            gone = next(i for i, row in enumerate(rows) if row["logprob"] < math.log(0.5) and len(row["token"]) == 1)
            rows[gone]["token"] = "junk"
        return answer

    server.change = without_a_letter
    (row,) = load_model(server.name).score([chat("missing")])
    assert np.exp(row).sum() == pytest.approx(1)
    assert np.exp(row.min()) <= 0.1 / 40 / 0.8


def test_truncated_log_probabilities_are_refused_by_name(server):
    server.change = lambda path, body, answer: truncated(path, body, answer, "query")
    with pytest.raises(
        ModelError, match=r"must tell the 20 likeliest first tokens, as 2 labels are not among.*got 1\."
    ):
        load_model(server.name).score([chat("query")])


def truncated(path, body, answer, at):
    if path == CHAT and body["messages"][-1]["content"] == at:
        first = answer["choices"][0]["logprobs"]["content"][0]
        first["top_logprobs"] = first["top_logprobs"][:1]
    return answer


def test_log_probabilities_that_vanish_stop_the_run_and_what_was_answered_is_kept(server, tmp_path):
    model, store = load_model(server.name), SqliteStore(tmp_path / "store.sqlite")
    asked, gone = [chat(f"q{i}") for i in range(12)], "q7"

    def vanish(path, body, answer):
        if path == CHAT and body["messages"][-1]["content"] == gone:
            del answer["choices"][0]["logprobs"]
        return answer

    server.change = vanish
    with pytest.raises(
        ModelError, match="'repeater' must tell log-probabilities of its first token; it answers without"
    ):
        model.with_store(store).score(asked)
    assert store.count() >= 7
    before, gone = server.counts[CHAT], ""
    n_kept = store.count()
    model.with_store(store).score(asked)
    assert server.counts[CHAT] - before == 12 - n_kept
    store.close()


def test_few_samples_are_counted_where_nothing_better_is_left(server):
    server.lacks |= {"logprobs", "echo"}
    model = load_model(server.name, api="samples=8")
    assert model.found.routes == ("constrained",)
    assert "'constrained' (sampled)" in model.remark
    assert "letters" in model.found.why_not
    (row,) = model.score([chat("a big thing", shown=(("a red cat", "cat"), ("a big dog", "dog")))])
    assert np.exp(row) == pytest.approx(np.array([0.5, 8.5, 0.5]) / 9.5)
    body = server.asked[-1][1]
    assert body["n"] == 8
    assert body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"] == ["cat", "dog", "cow"]


@pytest.mark.parametrize("lacks", [{"several"}, {"schema"}, {"schema", "several"}])
def test_a_service_is_asked_in_the_best_way_that_it_takes(server, lacks):
    """llama.cpp's takes schemas, and one answer to a request."""
    server.lacks |= {"logprobs", "echo", *lacks}
    model = load_model(server.name, api="samples=3,route=constrained")
    server.asked.clear()
    (row,) = model.score([chat()])
    bodies = [body for _, body in server.asked]
    assert len(bodies) == (3 if "several" in lacks else 1)
    assert all(("response_format" not in body) is ("schema" in lacks) for body in bodies)
    assert all(("n" not in body) is ("several" in lacks) for body in bodies)
    assert len({body["seed"] for body in bodies}) == len(bodies)
    assert np.exp(row[0]) == pytest.approx(3.5 / 4.5)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"answer": "cat"}', "cat"),
        (" Cat.", "cat"),
        ("I think.\n**dog**", "dog"),
        ("a cat", None),
        ("[1]", None),
        (None, None),
    ],
)
def test_answers_are_parsed(text, label):
    assert parsed(text, ["cat", "dog"]) == label


def test_labels_that_differ_in_case_alone_are_not_mixed_up():
    assert parsed("US", ["us", "US"]) == "US"
    assert parsed("Us", ["us", "US"]) is None


def test_answers_that_are_no_label_are_an_error(server):
    class Service:
        model, memory = "m", dict[str, object]()

        async def post(self, path, body):
            return {"choices": [{"message": {"content": "well"}}] * body.get("n", 1)}

    with pytest.raises(ModelError, match=r"none of its 4 answers is, such as 'well'\. Say in the task's instruction"):
        asyncio.run(Constrained(samples=4).read(Service(), chat()))


def test_more_labels_than_a_route_takes_go_to_the_next_or_are_refused(server):
    many = chat("q", *(f"label {i}" for i in range(21)))
    load_model(server.name).score([many])
    assert "response_format" in server.asked[-1][1]
    model = load_model(server.name, api="route=letters")
    with pytest.raises(UserError, match=r"takes at most 20 labels by its route 'letters'; got 21\. Use fewer labels"):
        model.forward_tokens([many])


def test_equal_labels_and_single_texts_are_refused(server):
    model = load_model(server.name)
    with pytest.raises(SameTokensError):
        model.forward_tokens([chat("q", "a", "a")])
    with pytest.raises(UserError, match=r"says nothing of a single text .*--selector-model"):
        model.score([chat("q", "a")])


# Runs


def test_a_run_goes_end_to_end_and_again_without_a_request(server, words_task, tmp_path, run_cli):
    told = ("adapt", words_task, "--model", server.name, "--recipes", "majority,zero-shot,random,bm25", "--shots", 4)
    told = (*told, "--limit", 12, "--out", tmp_path / "run", "--prices", "in=1,out=2")
    first = run_cli(*told, "--json")
    assert {row["recipe"] for row in first.json["leaderboard"]} == {"majority", "zero-shot", "random", "bm25"}
    assert "is asked by the route 'letters' (labels)" in first.err
    n = len(server.asked)
    assert first.json["paid"]["calls"] == server.counts[CHAT]  # those to find out what it is too
    again = run_cli(*told, "--json")
    assert len(server.asked) == n
    assert again.json["leaderboard"] == first.json["leaderboard"]
    (tmp_path / "asked.txt").write_text("a cat\n")
    answered = run_cli("predict", tmp_path / "run", tmp_path / "asked.txt", "--api", "concurrency=2").out
    assert kshot.load(tmp_path / "run").predict(["a cat"]) == [answered.strip()]


@pytest.mark.parametrize("selector_model", ["scripted", None])
def test_selectors_ask_their_own_model(server, words_task, tmp_path, selector_model):
    how = {"recipes": "best-of-n:n=3", "shots": 2, "limit": 3, "out": tmp_path / "run"}
    kshot.adapt(Task.load(words_task), server.name, selector_model=selector_model, **how)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    paid = sum(row["fit_tokens"] for row in rows)  # a scripted model runs no tokens
    assert (paid == 0) is (selector_model == "scripted")


def test_what_needs_gradients_asks_the_selector_model(server, words_task, run_cli):
    told = ("select", words_task, "--selector", "less", "-k", 2, "--model", server.name)
    assert "Gradients need a model with weights" in run_cli(*told).err
    n = server.counts[CHAT]
    got = run_cli(*told, "--selector-model", "tiny", "--api", "concurrency=2")
    assert len(got.out.splitlines()) == 2
    assert f"tokens for '{server.name}'" in " ".join(got.err.split())
    assert server.counts[CHAT] == n


def test_recipes_that_train_are_left_out_of_all_and_refused_by_name(server, words_task):
    with pytest.raises(
        UserError, match=r"The recipe 'icl\+ft' needs a model that can be trained; give another --model"
    ):
        kshot.adapt(Task.load(words_task), server.name, recipes="icl+ft", limit=6)


@pytest.mark.parametrize("lacks", ["echo", "chat"])
def test_texts_are_written(server, lacks, tmp_path):
    server.lacks |= {lacks}
    rows = tuple(Example(f"say {w}", f"{w} {w}", f"{i}") for i, w in enumerate(["ab", "cd", "ef", "gh"] * 4))
    task = Task(
        "echoes",
        "generation",
        tuple(replace(e, input=f"{e.input} {i}") for i, e in enumerate(rows)),
        metrics=("exact_match",),
    )
    run = kshot.adapt(task, server.name, recipes="zero-shot,random", shots=4, limit=6, out=tmp_path / "run")
    assert len(run.leaderboard) == 2
    path = CHAT if lacks == "echo" else COMPLETIONS
    written = [body for p, body in server.asked if p == path and "seed" in body and "response_format" not in body]
    assert written
    assert all(body["max_tokens"] >= 16 for body in written)


def test_an_allowed_answer_is_the_most_probable_one(server):
    model = load_model(server.name)
    asked = chat("a big thing", shown=(("a red cat", "cat"), ("a big dog", "dog")))
    (got,) = model.generate([GenerateRequest(asked.prompt, 5, allowed=("cat", "dog"))])
    assert (got.text, got.finished) == ("dog", True)


def test_a_stop_ends_a_text_whatever_the_server_does(text_server):
    prompt = Prompt((Segment("query", "Label: cat, dog\nLabel:"),))
    (got,) = load_model(text_server.name).generate([GenerateRequest(prompt, 9, stop=(",",))])
    assert (got.text, got.finished) == (" cat", True)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_text_that_was_cut_has_not_come_to_its_end(server, reason):
    model = load_model(server.name)
    cut = [{"index": 0, "message": {"content": "half of"}, "finish_reason": reason}]
    server.change = lambda path, body, answer: answer | {"choices": cut}
    (got,) = model.generate([GenerateRequest(chat().prompt, 9)])
    assert (got.text, got.finished) == ("half of", False)
    for nothing in ({"content": None}, {}):  # as servers say of thoughts that took all tokens
        cut[0]["message"] = nothing
        (got,) = model.generate([GenerateRequest(chat().prompt, 8)])
        assert (got.text, got.finished) == ("", False)
    cut[0]["finish_reason"] = "stop"
    with pytest.raises(ModelError, match="must answer with a text; it answers without one"):
        model.generate([GenerateRequest(chat().prompt, 7)])


def test_a_refusal_to_write_is_the_answer(server):
    model = load_model(server.name)
    said = {"index": 0, "message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}
    server.change = lambda path, body, answer: answer | {"choices": [said]}
    (got,) = model.generate([GenerateRequest(chat().prompt, 9)])
    assert (got.text, got.finished) == ("I cannot.", True)


def test_the_model_of_a_saved_run_may_have_moved_but_must_be_the_same(server, words_task, tmp_path, capsys):
    kshot.adapt(Task.load(words_task), server.name, recipes="random", limit=6, out=tmp_path / "run")
    with served(ApiServer()) as other:
        answer = kshot.load(tmp_path / "run", model=other.name).predict(["a cat"])
        assert f"was adapted with {server.name} and asks {other.name} now" in capsys.readouterr().err
        assert answer == kshot.load(tmp_path / "run").predict(["a cat"])
        other.model = "third"
        with pytest.raises(UserError, match="was adapted with other weights"):
            kshot.load(tmp_path / "run", model=other.name)


def test_a_route_that_does_not_hold_any_more_is_found_before_anything_is_asked(server):
    load_model(server.name)
    server.lacks |= {"logprobs"}
    model = load_model(server.name)
    with pytest.raises(
        ModelError, match=r"The route 'letters' of 'openai:.*' must be as it was; now .*it answers without"
    ):
        model.score([chat()])
    assert load_model(server.name).found.routes == ("echo",)


# What is paid


def test_what_was_answered_is_kept_when_work_is_stopped(server, tmp_path):
    store = SqliteStore(tmp_path / "store.sqlite")
    model, n = load_model(server.name, api="concurrency=4").with_store(store), 0
    server.asked.clear()

    def stop(finished: int) -> None:
        nonlocal n
        n += finished
        if n == 3:
            raise KeyboardInterrupt

    asked = [chat(f"q{i}") for i in range(40)]
    with pytest.raises(KeyboardInterrupt):
        model.score(asked, progress=stop)
    assert store.count() == len(server.asked) < 12  # those under way were waited for
    ledger = Ledger()
    model.score([*asked, asked[0]], ledger=ledger)
    assert len(server.asked) == 40
    assert (ledger.cost.scored + ledger.cost.reused, ledger.cost.calls) == (40, ledger.cost.scored)
    assert ledger.cost.tokens > 40
    model.score(asked, ledger=(again := Ledger()))
    assert (again.cost.scored, again.cost.reused, again.cost.calls) == (0, 40, 0)
    assert again.cost.tokens == ledger.cost.tokens
    store.close()


def test_who_interrupts_is_told_what_is_waited_for_and_for_how_long(caplog):
    from kshot.models.remote.calls import ask_all

    never, kept, told = asyncio.Event(), [], []

    async def answered():
        return "answer"

    async def hangs():
        await never.wait()

    def stop(key: str) -> None:
        told.append(key)
        raise KeyboardInterrupt

    jobs = {"soon": answered, "never": hangs}
    with pytest.raises(KeyboardInterrupt):
        ask_all(jobs, at_once=2, keep=lambda *answer: kept.append(answer), tell=stop, patience=0.05)
    assert (kept, told) == ([("soon", "answer")], ["soon"])
    assert caplog.messages == ["stopping: answers that are under way are waited for, 0.05 s at most, and kept"]


def test_the_budget_is_looked_at_before_each_call_of_a_request(server):
    """A request that is many calls ends with the money, and not after the last of them."""
    server.lacks |= {"completions", "logprobs", "several"}
    model = load_model(server.name, api="route=constrained,retries=0")
    probing = Ledger()
    model.score([chat("the cat", "cat", "dog")], ledger=probing)
    each = probing.cost.input_tokens / probing.cost.calls
    assert probing.cost.calls >= 16
    ledger, n = Ledger(Budget(money=5 * each * 1e-6), prices=Prices(1, 0, 0)), len(server.asked)
    with pytest.raises(BudgetSpentError):
        model.score([chat(f"the dog {i}", "cat", "dog") for i in range(20)], ledger=ledger)
    made = len(server.asked) - n
    assert 4 <= made <= 6 + 8  # and those under way
    assert ledger.cost.calls == made  # all are counted


def test_what_the_probe_took_is_on_disk_before_the_first_answer(server, tmp_path):
    server.lacks |= {"completions"}
    store = SqliteStore(tmp_path / "scores.sqlite")
    model = load_model(server.name).with_store(store)
    probed, paid = server.counts[CHAT], list[int]()

    def change(path, body, answer):
        other = SqliteStore(tmp_path / "scores.sqlite")
        paid.append(other.paid.calls)
        other.close()
        return answer

    server.change = change
    model.score([chat("the cat", "cat", "dog")])
    assert paid == [probed]
    assert store.paid.calls == probed + 1
    store.close()


def test_what_was_answered_before_a_call_failed_is_not_asked_again_without_a_store(server):
    server.lacks |= {"completions"}
    model = load_model(server.name, api="concurrency=1")
    requests = [chat(text, "cat", "dog") for text in ("one", "two", "three", "POISON")]
    server.change = lambda path, body, answer: refused(400, "a filter") if "POISON" in str(body) else answer
    n, ledger = server.counts[CHAT], Ledger()
    with pytest.raises(RefusedError):
        model.score(requests, ledger=ledger)
    assert server.counts[CHAT] - n == 4
    for request in requests[:3]:
        model.score([request], ledger=ledger)
    assert server.counts[CHAT] - n == 4
    model.score(requests[:3])  # once alone: whoever asks anew gets new answers
    assert server.counts[CHAT] - n == 7


def test_texts_are_kept_with_what_they_took(server, tmp_path):
    store, first, again = SqliteStore(tmp_path / "store.sqlite"), Ledger(), Ledger()
    model, asked = load_model(server.name).with_store(store), [GenerateRequest(chat().prompt, 4)] * 2
    model.generate([GenerateRequest(chat().prompt, 3)])  # which pays what was asked to find out what it is
    got = model.generate(asked, ledger=first)
    n = len(server.asked)
    assert model.generate(asked, ledger=again) == got
    assert (len(server.asked), again.cost.calls, first.cost.calls) == (n, 0, 1)
    assert again.cost.tokens == first.cost.tokens > 0
    store.close()


# Keys


def test_keys_come_from_the_environment_and_openais_goes_to_openai_alone(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    load_model(server.name)
    assert not any("authorization" in headers for headers in server.headers)
    monkeypatch.setenv("KSHOT_API_KEY", KEY)
    load_model(server.name, api="samples=3")
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"


def test_a_key_that_is_not_taken_is_named_and_not_repeated(server, monkeypatch):
    monkeypatch.setenv("KSHOT_API_KEY", KEY)
    server.change = lambda path, body, answer: refused(401, f"Incorrect key {KEY}")
    with pytest.raises(
        UserError, match=r"must accept the key in KSHOT_API_KEY .*401: Incorrect key …\. Set KSHOT"
    ) as told:
        load_model(server.name)
    assert KEY not in str(told.value)


@pytest.mark.parametrize(
    "name",
    [f"openai:http://user:{KEY}@host/v1#m", f"openai:https://host/v1?key={KEY}#m", f"openai:http://{KEY}@[/v1#m"],
)
def test_a_key_in_a_url_is_refused_and_never_shown(name, words_task, run_cli):
    got = run_cli("adapt", words_task, "--model", name)
    assert got.code == 2
    assert "must hold no password, key or query" in got.err
    assert "KSHOT_API_KEY" in got.err
    assert KEY not in got.out + got.err
    with pytest.raises(UserError) as told:
        load_model(name)
    assert KEY not in str(told.value)


# OpenAI's own


def test_openais_own_server_is_asked_through_its_sdk(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with pytest.raises(UserError, match=r"'openai:repeater' needs a key of OpenAI.*Set OPENAI_API_KEY\."):
        load_model("openai:repeater")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = load_model("openai:repeater")
    n_asked, fails = len(server.asked), [429, 500]

    def fail_first(path, body, answer):
        if fails:
            return JSONResponse({"error": {"message": "later"}}, fails.pop(), {"retry-after": "0.01"})
        return answer

    server.change = fail_first
    (row,) = model.score([chat()])
    assert len(row) == 3
    assert len(server.asked) == n_asked + 3
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert server.headers[-1]["x-stainless-lang"] == "python"  # of the SDK
    assert server.asked[-1][1]["max_completion_tokens"] == 1
    server.change = lambda path, body, answer: refused(404, "The model does not exist")
    with pytest.raises(ModelError, match=r"it refuses \(404\): The model does not exist\. Look whether"):
        model.score([chat("other")])


def test_an_sdk_that_gives_up_says_what_to_do(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = load_model("openai:repeater", api="retries=1")
    server.change = lambda path, body, answer: JSONResponse({}, 503, {"retry-after": "0.01"})
    with pytest.raises(NoAnswerError, match=r"after 2 attempts it says 503: .*Run the same command again later"):
        model.score([chat()])


@pytest.mark.parametrize(("retries", "n"), [(1, 2), (8, 6)])
@pytest.mark.parametrize("is_openai", [True, False])
def test_a_question_of_the_probe_is_sent_as_often_as_is_said(server, monkeypatch, retries, n, is_openai):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("kshot.models.remote.service._FIRST_WAIT_S", 0.001)
    before = [path for path, _ in server.asked].count("/v1/chat/completions")

    def busy(path, body, answer):
        return JSONResponse({}, 503, {"retry-after": "0.01"}) if "chat" in path else answer

    server.change = busy
    with pytest.raises(UserError, match=rf"after {n} attempts it says 503"):
        load_model("openai:repeater" if is_openai else server.name, api=f"route=letters,retries={retries}")
    assert [path for path, _ in server.asked].count("/v1/chat/completions") - before == n


def test_openais_server_that_is_not_there_is_given_up_soon(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match="after 2 attempts it was not reached"):
        load_model("openai:repeater")


# Servers that fail


def flaky(server: ApiServer, bad, *, every: int = 3):
    """Let every so-manyth answer be what `bad` returns."""
    n = 0

    def change(path, body, answer):
        nonlocal n
        n += 1
        return answer if n % every else bad(answer)

    server.change = change


def broken_off(answer):
    """As a gateway hands on what its model had written when it failed."""
    end = {"finish_reason": "error", "error": {"message": "upstream died", "code": 502}}
    return answer | {"choices": [c | end for c in answer["choices"]]} if "choices" in answer else answer


BAD = {
    "429": lambda answer: refused(429, "slow down"),
    "500": lambda answer: refused(500, "oops"),
    "html": lambda answer: JSONResponse(None, 200, media_type="text/html") and HTML(),
    "no choices": lambda answer: answer | {"choices": []} if "choices" in answer else answer,
    "200 with an error": lambda answer: {"error": {"message": "slow down", "code": 429}},
    "an answer that broke off": lambda answer: broken_off(answer),
    "another model": lambda answer: answer | {"model": "imposter"} if "model" in answer else answer,
    "no log-probabilities": lambda answer: without_logprobs(answer),
}


@pytest.mark.parametrize("bad", mostly_slow(BAD, "429", "200 with an error", "no log-probabilities"))
def test_what_goes_wrong_now_and_then_changes_nothing(server, bad):
    want = load_model(server.name, api="samples=3").score([chat(f"q{i}") for i in range(6)])
    flaky(server, BAD[bad])
    got = load_model(server.name).score([chat(f"q{i}") for i in range(6)])
    assert np.array_equal(got, want)


def HTML():
    from starlette.responses import HTMLResponse

    return HTMLResponse("<h1>Bad gateway</h1>")


def without_logprobs(answer):
    choices = [{k: v for k, v in choice.items() if k != "logprobs"} for choice in answer.get("choices", [])]
    return answer | {"choices": choices} if choices else answer


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda: refused(500, "oops"), r"after 9 attempts it says 500: oops\. Look whether"),
        (lambda: HTML(), r"it answers what is no JSON: <h1>Bad gateway</h1>"),
        (lambda: {"model": "repeater", "choices": []}, "it answers without any choices"),
        (lambda: {"model": "repeater", "choices": None}, "it answers without any choices"),
        (lambda: {"error": {"message": "oops", "code": 502}}, r"after 9 attempts it says 502: oops\. Look whether"),
        (lambda: {"error": {"message": "no credit", "code": 402}}, r"it refuses \(402\): no credit\. Look whether"),
        (lambda: {"error": "no such path"}, r"at /chat/completions; it says: no such path\. Look whether"),
        (lambda: broken_off({"choices": [{"index": 0}]}), "after 9 attempts it says 502: upstream died"),
        (lambda: {"model": "imposter", "choices": [{}]}, "it answers as another model, 'imposter'"),
    ],
)
def test_what_goes_wrong_always_is_said(server, bad, said):
    model = load_model(server.name)
    server.change = lambda path, body, answer: bad()
    with pytest.raises(ModelError, match=said):
        model.score([chat()])


def test_a_prompt_that_is_too_long_for_the_server_is_said_with_its_remedy(server):
    model = load_model(server.name)
    words = "This model's maximum context length is 128 tokens."
    server.change = lambda path, body, answer: refused(400, words) if path == CHAT else answer
    with pytest.raises(ModelError, match=r"must fit the context of .*; 4096 tokens were taken .*--api max-tokens=…"):
        model.score([chat()])


def test_slow_drips_end_with_the_timeout(server):
    model = load_model(server.name, api="timeout=0.2,retries=0")

    async def drip():
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    from starlette.responses import StreamingResponse

    server.change = lambda path, body, answer: StreamingResponse(drip())
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=r"it was not reached: no whole answer in 0\.2 s"):
        model.score([chat()])
    assert time.monotonic() - began < 3


def test_a_server_that_is_not_there_and_a_model_that_it_does_not_have(server):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/v1 must answer for 'm'; after 2 attempts it was not"):
        load_model("openai:http://127.0.0.1:9/v1#m")
    with pytest.raises(UserError, match=r"must be one that http.* has; got 'repeter'\. Did you mean 'repeater'\?"):
        load_model(server.name.replace("repeater", "repeter"))


# What is given


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai:", r"must be openai:NAME or openai:http://host/v1#NAME; got 'openai:'\. Name the model"),
        ("openai:http:m", "must be openai:NAME or"),
        (
            "openai:#m",
            r"must be http.* got none before '#' in 'openai:#m'\. Write openai:http://host/v1#m, or openai:m",
        ),
        ("openai:http://host/v1", r"must be named after its URL, as openai:http://host/v1#NAME; got no name\. Add it"),
        ("openai:ftp://host/v1#m", r"must be http:// or https:// with a host; got 'ftp://host/v1'\. Correct it"),
        ("openai:http://#m", r"with a host; got 'http://'\. Correct it"),
        ("openai:http://host:port/v1#m", r"with a host; got 'http://host:port/v1'"),
    ],
)
def test_addresses_that_are_none(name, said):
    with pytest.raises(UserError, match=said):
        parse_address(name)


def test_addresses():
    assert parse_address("openai:gpt-9-mini").name == "openai:gpt-9-mini"
    address = parse_address("openai:https://host:8000/v1/#org/model")
    assert (address.url, address.model) == ("https://host:8000/v1", "org/model")
    assert parse_address(address.name) == address


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("speed=3", r"--api must look like max-tokens=8192,concurrency=16; got 'speed'"),
        ("max-tokens=0", r"--api max-tokens must be a whole number, 1 or more; got '0'\. Correct it\."),
        ("concurrency=many", r"--api concurrency must be a whole number, 1 or more; got 'many'"),
        ("timeout=0", r"--api timeout must be a number of seconds above 0; got '0'"),
        ("samples=2.5", r"--api samples must be a whole number"),
    ],
)
def test_settings_that_are_none(api, said):
    with pytest.raises(UserError, match=said):
        settings(api=api)


def test_settings_are_read_and_written():
    read = parse_api("max-tokens=8192, route=letters+echo,timeout=5")
    assert read == ApiSettings(route="letters+echo", max_tokens=8192, timeout=5.0)
    assert parse_api(read.text) == replace(read, timeout=ApiSettings.timeout)  # which changes no answer
    assert parse_api({"max_tokens": 10}).max_tokens == 10


def test_an_unknown_route_is_refused_before_anything_is_asked(server):
    with pytest.raises(UserError, match=r"--api route must be a known one; got 'leters'\. Did you mean 'letters'\?"):
        load_model(server.name, api="route=leters")
    assert not server.asked


def test_flags_are_for_models_of_their_kind(run_cli, words_task):
    with pytest.raises(UserError, match=r"--device must be left out for 'openai:m', whose server has loaded it"):
        prepare(replace(settings(device="cpu"), task=words_task))
    with pytest.raises(UserError, match=r"--api is for models behind an API, as openai:NAME; none is named"):
        prepare(RunSettings(words_task, "tiny", api="samples=3"))
    with pytest.raises(
        UserError, match="--device, --dtype, --revision and --trust-remote-code must be left out for 'op"
    ):
        load_model("openai:m", dtype="float32")
    with pytest.raises(UserError, match="--api must be left out for 'tiny', which is behind no API"):
        load_model("tiny", api="samples=3")
    mixed = settings(selector_model="tiny", dtype="float32", api="samples=3")
    assert mixed.placing("tiny")["dtype"] == "float32"
    assert mixed.placing("openai:m") == {"api": "samples=3"}
    got = run_cli("select", words_task, "--selector", "random", "-k", 2, "--api", "samples=3")
    assert "--api say how a model is loaded; give --model too" in " ".join(got.err.split())


def test_layouts_are_those_of_the_route(server, words_task):
    task = Task.load(words_task)
    with pytest.raises(UserError, match=r"--layout must be messages for 'openai:.*', as its service writes them"):
        kshot.adapt(task, server.name, recipes="random", layout="plain")
    model = load_model(server.name, api="route=echo")
    with pytest.raises(UserError, match=r"--layout messages needs a model behind an API that is asked in messages"):
        kshot.adapt(task, model, recipes="random", layout="messages")


@pytest.mark.parametrize(
    ("asked", "named", "is_same"),
    [
        ("m", "m", True),
        ("m", "M", True),
        ("gpt-9", "gpt-9-2026-01-31", True),
        ("gpt-9", "gpt-9-mini", False),
        ("llama", "llama:latest", True),
        ("gemma", "/models/gemma.gguf", True),
        ("google/gemma", "gemma", True),
        ("m", "n", False),
        ("meta/llama", "evil/llama", False),
        ("a/v1", "b/v1", False),
        ("meta/llama", "/models/llama", True),
        ("me/llama.gguf", "you/llama.gguf", True),
        ("llama-3", "llama-3-70", False),
        ("gpt-4", "gpt-4-1", False),
        ("gpt-4", "gpt-4-0613", True),
        ("claude", "claude-20260131", True),
        ("m", "m@main", True),
    ],
)
def test_names_of_the_same_model(asked, named, is_same):
    assert same_model(asked, named) is is_same


# Pace


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20", 20), ("1.5", 1.5), ("6m0s", 360), ("120ms", 0.12), ("soon", None), (None, None), ("", None)],
)
def test_times_in_headers(text, seconds):
    assert seconds_of(text) == seconds


def test_a_date_in_a_header():
    from email.utils import formatdate

    wait = seconds_of(formatdate(time.time() + 30, usegmt=True))
    assert wait == pytest.approx(30, abs=2)
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


def test_all_wait_while_a_limit_is_used_up():
    pace = Pace()
    pace.hear(200, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60ms"})
    began = time.monotonic()
    asyncio.run(pace.turn())
    assert 0.05 < time.monotonic() - began < 1
    asyncio.run(asyncio.wait_for(pace.turn(), 0.05))  # and then no more
    pace.hear(429, {"retry-after": "30"})
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(pace.turn(), 0.01))


def test_no_more_than_so_many_requests_are_under_way(server):
    under_way, most = 0, 0

    class Counting(HttpService):
        async def _sent(self, *args):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await super()._sent(*args)
            finally:
                under_way -= 1

    service = Counting(parse_address(server.name), parse_api("concurrency=2"))

    async def many():
        await asyncio.gather(*(service.get("/models") for _ in range(10)))

    from kshot.models.remote.calls import wait_for

    wait_for(many())
    assert most == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_is_forked_asks_through_a_line_of_its_own(server):
    model = load_model(server.name)
    alone = model.score([chat()])[0].tolist()

    def child():
        os._exit(0 if model.score([chat()])[0].tolist() == alone else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    code = process.exitcode
    process.kill()
    assert code == 0
    assert model.score([chat()])[0].tolist() == alone


def test_connections_are_closed_with_the_last_copy_of_a_service(server):
    service = HttpService(parse_address(server.name), ApiSettings())
    copy, http = service.metered(), service._line.opened.http
    del service
    gc.collect()
    assert not http.is_closed
    del copy
    gc.collect()
    for _ in range(100):
        if http.is_closed:
            return
        time.sleep(0.01)
    raise AssertionError("they are still open")


@pytest.mark.slow
def test_demonstrations_that_the_real_model_has_chosen_are_answered_by_an_api_model(server, tmp_path):
    task = Task.load("builtin:bbc-headlines")
    how = {"recipes": "best-of-n:n=2,queries=2", "shots": 2, "limit": 4, "out": tmp_path / "run"}
    run = kshot.adapt(replace(task, train=task.train[:20]), server.name, selector_model="demo", **how)
    n = len(server.asked)
    assert run.paid["calls"] == server.counts[CHAT]
    kshot.adapt(replace(task, train=task.train[:20]), server.name, selector_model="demo", **how)
    assert len(server.asked) == n
