"""Servers fail: a run ends as without that, each answer is paid once and stored once, and the key stays secret.

The server counts what it was asked and what it answered; the run folder is read as it lies on the disk.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

import kshot
from api_server import ApiServer, served
from faulty_server import ALL, CHANGES, Faults
from kshot.core.errors import ModelError
from kshot.core.types import Task
from kshot.store.scores import SqliteStore

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"recipes": "zero-shot,bm25", "shots": 4, "limit": 24, "race": False}
PRICES = "in=1,out=2"
KEY = "sk-a-key-that-nobody-may-read"
QUICK = "timeout=1,concurrency=8"


@pytest.fixture(autouse=True)
def _with_key(services_alone, monkeypatch):
    monkeypatch.setenv("KSHOT_API_KEY", KEY)


@pytest.fixture(scope="module")
def task(words_task):
    return Task.load(words_task)


def server_of(route: str) -> ApiServer:
    """A server that is asked by a route."""
    server = ApiServer()
    server.lacks |= {"chat"} if route == "echo" else {"completions"}
    return server


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory):
    """The run by echo without faults; a test changes nothing of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, served(server_of("echo")) as server:
        patch.setenv("KSHOT_CACHE", str(folder / "cache"))
        kshot.adapt(task, server.name, out=folder / "run", prices=PRICES, **SETTINGS)
    return folder / "run"


@contextmanager
def failing(route: str = "echo", **how: Any):
    """Serve with faults; the server as it is, and its faults."""
    server = server_of(route)
    server.app = faults = Faults(server.app, **how)
    with served(server):
        yield server, faults


def results(folder: Path) -> Any:
    """What a run has found, without what depends on time, on the server's address and on its faults."""
    found = json.loads((folder / "results.json").read_text())
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in (*rows, *found["leaderboard"]):
        for name in ("seconds", "fit_seconds", "query_ms"):
            row.pop(name, None)
    return rows, found["leaderboard"], found["choice"], found["tokens"]


def answered(faults: Faults) -> dict[str, int]:
    """How often each body was answered, but those of the probe, by which each process knows a route again."""
    return {body: n for body, n in faults.answered.items() if not ("green" in body and "table" in body)}


def n_stored(folder: Path) -> int:
    store = SqliteStore(folder / "store.sqlite")
    try:
        return store.count()
    finally:
        store.close()


@pytest.mark.parametrize(("route", "seed"), [("echo", 287), pytest.param("letters", 267, marks=pytest.mark.slow)])
def test_among_faults_a_run_ends_as_without_them_and_each_answer_is_paid_and_stored_once(
    route, seed, task, undisturbed, tmp_path
):
    if route == "letters":
        with served(server_of(route)) as server:
            kshot.adapt(task, server.name, out=tmp_path / "undisturbed", **SETTINGS)
        undisturbed = tmp_path / "undisturbed"
    with failing(route, seed=seed) as (server, faults):
        run = kshot.adapt(task, server.name, out=tmp_path / "run", api=QUICK, prices=PRICES, **SETTINGS)
    assert set(faults.met) == set(ALL)
    assert results(tmp_path / "run") == results(undisturbed)
    assert [body for body, n in answered(faults).items() if n > 1] == []
    assert n_stored(tmp_path / "run") == n_stored(undisturbed) == len(answered(faults))
    assert run.paid == {
        "calls": faults.billed["calls"],
        "input_tokens": faults.billed["input"],
        "cached_tokens": faults.billed["cached"],
        "output_tokens": faults.billed["output"],
        "usd": pytest.approx((faults.billed["input"] + 2 * faults.billed["output"]) / 1e6),
    }
    # The server is gone
    again = kshot.adapt(task, server.name, out=tmp_path / "run", api=QUICK, prices=PRICES, **SETTINGS)
    assert again.work.calls == 0
    assert again.paid == run.paid
    assert results(tmp_path / "run") == results(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALL)
def test_each_fault_alone_is_overcome(fault, task, tmp_path):
    settings = SETTINGS | {"recipes": "zero-shot", "limit": 6}
    # A seed by which nothing lacks its log-probabilities three times in a row: that is given up
    with failing(kinds=(fault,), share=0.4, seed=0) as (server, faults):
        run = kshot.adapt(task, server.name, out=tmp_path / "run", api=QUICK, **settings)
    assert set(faults.met) == {fault}
    assert faults.met[fault] > 1
    assert set(faults.answered.values()) == {1}
    assert [row["status"] for row in run.leaderboard] == ["done"]


@pytest.mark.parametrize("concurrency", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_pays_nothing_twice(
    concurrency, words_task, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [sys.executable, str(HERE / "ask_and_die.py"), str(words_task), str(tmp_path / "warm")]
    helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert helper.stdin
    assert helper.stdout
    server, counted, pid, kill_at, ends = server_of("echo"), 0, 0, None, []

    def killing(path: str, body: Any, answer: Any) -> Any:
        nonlocal counted
        counted += path.endswith("completions")
        if counted == kill_at:
            faults.nobody_hears = True
            os.kill(pid, signal.SIGKILL)
        return answer

    server.change = killing
    server.app = faults = Faults(server.app, share=0.0)
    with helper, served(server):
        for n in (1, 4, 20, None):  # the first of the probe, and two of the run
            kill_at, how = n, SETTINGS | {"api": f"concurrency={concurrency}", "prices": PRICES}
            counted, faults.nobody_hears = 0, False
            told = json.dumps([str(words_task), server.name, str(tmp_path / "run"), how])
            helper.stdin.write(told + "\n")
            helper.stdin.flush()
            pid = int(helper.stdout.readline())
            ends.append(int(helper.stdout.readline()))
        helper.stdin.close()
    assert ends == [signal.SIGKILL] * 3 + [0]
    assert results(tmp_path / "run") == results(undisturbed)
    own = answered(faults)
    # Only what else is under way when a process dies is lost: it was sent by the server, and nobody has written it down
    assert sum(n - 1 for n in own.values()) <= 2 * (concurrency - 1)
    assert n_stored(tmp_path / "run") == n_stored(undisturbed) == len(own)


def test_a_server_that_is_busy_when_it_is_first_asked_is_waited_for(task, tmp_path):
    server, n_refused = server_of("echo"), 0

    def busy(path: str, body: Any, answer: Any) -> Any:
        nonlocal n_refused
        n_refused += (is_busy := path.endswith("models") and n_refused < 5)
        return JSONResponse({"error": "loading the model"}, 503) if is_busy else answer

    server.change = busy
    with served(server):
        kshot.load_model(server.name)
    assert n_refused == 5


def test_log_probabilities_that_vanish_for_good_end_the_run_which_goes_on_for_the_rest(task, undisturbed, tmp_path):
    server = server_of("echo")
    server.app = faults = Faults(server.app, share=0.0)

    def vanishing(path: str, body: Any, answer: Any) -> Any:
        is_late = path.endswith("/completions") and server.counts[path] > 20
        return CHANGES["no log-probabilities"](answer) if is_late else answer

    server.change = vanishing
    how = SETTINGS | {"out": tmp_path / "run", "api": "concurrency=1", "prices": PRICES}
    with served(server):
        with pytest.raises(ModelError, match="log-probabilities of the text's own tokens.* run the same command again"):
            kshot.adapt(task, server.name, **how)
        faults.answered.clear()  # of which the last ones were without
        n_kept = n_stored(tmp_path / "run")
        assert n_kept > 10
        server.change = lambda path, body, answer: answer
        run = kshot.adapt(task, server.name, **how)
    assert results(tmp_path / "run") == results(undisturbed)
    assert set(answered(faults).values()) == {1}
    assert n_stored(tmp_path / "run") == n_stored(undisturbed) == n_kept + len(answered(faults))
    assert run.paid is not None
    assert run.paid["calls"] == faults.billed["calls"]  # those without log-probabilities too


def test_money_that_ends_in_the_middle_is_overspent_by_what_is_under_way_at_most(task, undisturbed, tmp_path):
    whole = json.loads((undisturbed / "results.json").read_text())["paid"]
    budget = 0.85 * whole["input_tokens"] / 1e6  # in the middle of what bm25 asks after its first 16 predictions
    how = SETTINGS | {"out": tmp_path / "run", "api": "concurrency=4", "prices": PRICES}
    with failing(share=0.2, kinds=("429", "500", "no choices")) as (server, faults):
        part = kshot.adapt(task, server.name, budget=f"{budget:f}usd", **how)
        assert part.paid is not None
        assert budget <= part.paid["usd"] == pytest.approx(faults.billed["input"] / 1e6)
        assert part.paid["usd"] < budget + 5 * 250 / 1e6  # four under way, one of which may be asked again
        (reason,) = (row["reason"] for row in part.leaderboard if row["recipe"] == "bm25")
        assert reason == "the budget was spent after 16 predictions"
        more = kshot.adapt(task, server.name, budget="1usd", **how)
    assert results(tmp_path / "run") == results(undisturbed)
    assert set(answered(faults).values()) == {1}
    assert more.paid is not None
    assert more.paid["calls"] == faults.billed["calls"]


def files_with(text: str, folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and text.encode() in f.read_bytes()]


def test_the_key_is_sent_and_nowhere_else(words_task, tmp_path, run_cli, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    how = ["--recipes", "zero-shot,bm25", "--limit", "16", "--out", "run", "--api", QUICK]
    careless = f"Incorrect API key provided: {KEY}. You sent 'Authorization: Bearer {KEY}'"
    said = ""
    with failing(kinds=("429", "500", "503 in HTML", "malformed"), share=0.5, words=careless) as (server, faults):
        run = run_cli("adapt", words_task, "--model", server.name, *how)
        said += run.out + run.err
        assert run.code == 0
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        faults.kinds, faults.share = ("500",), 1.0
        lost = run_cli("adapt", words_task, "--model", server.name, *how, "--seed", "1", "--out", "lost")
        assert "Incorrect API key provided: …. You sent" in lost.err
        assert lost.code == 3
    refused = ApiServer()
    refused.change = lambda path, body, answer: JSONResponse({"error": {"message": careless}}, 401)
    with served(refused):
        wrong = run_cli("adapt", words_task, "--model", refused.name, *how, "--out", "wrong")
    assert wrong.code == 2
    assert "must accept the key in KSHOT_API_KEY" in wrong.err
    said += lost.out + lost.err + wrong.out + wrong.err
    assert KEY not in said
    assert KEY not in caplog.text
    assert files_with("repeater", tmp_path)  # that something is found at all
    assert files_with(KEY, tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        f"openai:http://user:{KEY}@127.0.0.1:9/v1#m",
        f"openai:http://{KEY}@127.0.0.1:9/v1#m",
        f"openai:http://127.0.0.1:9/v1?api_key={KEY}#m",
        f"openai:{KEY}",
    ],
)
@pytest.mark.parametrize("flag", ["--model", "--selector-model", "file"])
def test_a_key_in_an_address_is_refused_and_never_written(flag, name, words_task, tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = [] if flag == "--model" else ["--model", "scripted"]
    given = [*model, flag, name]
    if flag == "file":
        (tmp_path / "run.yaml").write_text(f"model: {json.dumps(name)}\n")
        given = ["--config", "run.yaml"]
    run = run_cli("adapt", words_task, *given, "--recipes", "zero-shot", "--out", "run")
    (tmp_path / "run.yaml").unlink(missing_ok=True)
    assert run.code == 2
    assert KEY not in run.out + run.err
    assert "into the environment" in run.err
    assert files_with(KEY, tmp_path) == []
    assert not (tmp_path / "run").exists()
