"""Servers fail: a run ends as without that, each answer is paid once and stored once, and the key stays secret.

The server counts what it was asked and what it answered; the run folder is read as it lies on the disk.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kshot
from api_server import ApiServer, served
from faulty_server import ALL, Faults
from kshot.core.types import Task
from kshot.store.scores import SqliteStore

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"recipes": "zero-shot,bm25", "shots": 4, "limit": 24, "race": False}
PRICES = "in=1,out=2"
KEY = "sk-a-key-that-nobody-may-read"
QUICK = "timeout=0.5,concurrency=8"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    import stamina

    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KSHOT_API_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with stamina.set_testing(True, attempts=9, cap=True):  # no waits
        yield


@pytest.fixture(scope="module")
def task(words_task):
    return Task.load(words_task)


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory):
    """The run without faults; a test changes nothing of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, served(ApiServer()) as server:
        patch.setenv("KSHOT_CACHE", str(folder / "cache"))
        kshot.adapt(task, server.name, out=folder / "run", **SETTINGS)
    return folder / "run"


@contextmanager
def failing(**how: Any):
    """Serve with faults; the server as it is, and its faults."""
    server = ApiServer()
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


def n_stored(folder: Path) -> int:
    store = SqliteStore(folder / "store.sqlite")
    try:
        return store.count()
    finally:
        store.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_among_faults_a_run_ends_as_without_them_and_each_answer_is_paid_and_stored_once(
    seed, task, undisturbed, tmp_path
):
    with failing(seed=seed) as (server, faults):
        run = kshot.adapt(task, server.name, out=tmp_path / "run", api=QUICK, prices=PRICES, **SETTINGS)
    assert sum(faults.met.values()) > 10
    assert results(tmp_path / "run") == results(undisturbed)
    assert set(faults.answered.values()) == {1}
    assert n_stored(tmp_path / "run") == n_stored(undisturbed) == len(faults.answered) - 2  # those of the probe
    assert run.paid == {
        "calls": faults.billed["calls"],
        "input_tokens": faults.billed["input"],
        "cached_tokens": 0,
        "output_tokens": faults.billed["output"],
        "usd": pytest.approx((faults.billed["input"] + 2 * faults.billed["output"]) / 1e6),
    }
    # The server is gone
    again = kshot.adapt(task, server.name, out=tmp_path / "run", api=QUICK, prices=PRICES, **SETTINGS)
    assert again.work.calls == 0
    assert again.paid == run.paid
    assert results(tmp_path / "run") == results(undisturbed)


@pytest.mark.parametrize("fault", ALL)
def test_each_fault_alone_is_overcome(fault, task, tmp_path):
    settings = SETTINGS | {"recipes": "zero-shot", "limit": 6}
    with failing(kinds=(fault,), share=0.4, seed=2) as (server, faults):
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
    server, counted, pid, kill_at, ends = ApiServer(), 0, 0, None, []

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
        for kill_at in (1, 4, 20, None):  # the first of the probe, and two of the run
            how = SETTINGS | {"api": f"concurrency={concurrency}", "prices": PRICES}
            counted, faults.nobody_hears = 0, False
            told = json.dumps([str(words_task), server.name, str(tmp_path / "run"), how])
            helper.stdin.write(told + "\n")
            helper.stdin.flush()
            pid = int(helper.stdout.readline())
            ends.append(int(helper.stdout.readline()))
        helper.stdin.close()
    assert ends == [signal.SIGKILL] * 3 + [0]
    assert results(tmp_path / "run") == results(undisturbed)
    own = {body: n for body, n in faults.answered.items() if "green" not in body}  # those are of the probe
    # Only what else is under way when a process dies is lost: it was sent by the server, and nobody has written it down
    assert sum(n - 1 for n in own.values()) <= 2 * (concurrency - 1)
    assert n_stored(tmp_path / "run") == n_stored(undisturbed) == len(own)
