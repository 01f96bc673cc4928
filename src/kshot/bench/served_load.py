"""How many queries a second `kshot serve` answers under load, beside llama.cpp's own server with the same prompts.

A classifier of 16 headlines in its prompt is asked by 16 clients, each of which sends its next query when it has the
answer to the last one; then by one client alone. llama.cpp's server (by xllamacpp) has the same weights, as the GGUF
file that kshot's are made of, in 16 slots, with its prompt cache on. It is asked in three ways: for the next token
alone, which tells labels apart by their first tokens; the same with `swa_full`, without which its cache keeps nothing
for models with a sliding window; and, so too, for what kshot answers, the probabilities of whole labels, by a request
for each place where they go on.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import httpx2
import numpy as np

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import ModelError
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.engine.session import Session
from kshot.learners.learner import Setup
from kshot.models.white_box import gguf_of
from kshot.recipes.grammar import parse_recipe
from kshot.serve.listening import SERVED_AT
from kshot.taskmodel.taskmodel import TaskModel

N_CLIENTS, N_SHOWN = 16, 16
_SHARE = 1 / 8  # of the time for each of the other measurements
_LLAMA = """
import os, sys, xllamacpp
how = xllamacpp.CommonParams()
how.model.path, how.n_ctx, how.n_parallel, how.port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 0
how.kv_unified, how.swa_full, how.verbosity = True, sys.argv[4] == "full", 0
how.cpuparams.n_threads = how.cpuparams_batch.n_threads = os.cpu_count()
server = xllamacpp.Server(how)
print("at", server.listening_address, file=sys.stderr, flush=True)
sys.stdin.read()
os._exit(0)
"""

Ask = Callable[[httpx2.AsyncClient, str], Awaitable[int]]  # a query's text -> the HTTP status


def run(model: str = "demo", *, seconds: float = 600.0) -> dict[str, Any]:
    """Measure for `seconds` of load.

    Returns:
        `per_s`, `p50_ms`, `p99_ms` and `n` under load, `n_5xx` and `n_429` of them, `rss_mb` after a fifth of the
        time and `rss_growth` from there to the end, `alone_ms` for one client; of llama.cpp's server queries a second
        (`llama_*_per_s`) and how many times more kshot answers (`times_llama_*`), for models that are GGUF files.
    """
    task = Task.load("builtin:bbc-headlines")
    loaded = load_model(model)
    adapted = AdaptedModel.fit(
        parse_recipe(f"random:k={N_SHOWN}", shots=N_SHOWN),
        task.train,
        Setup(task, TaskModel.for_task(task, loaded), 0),
        choice={},
    )
    texts = [e.input for e in task.test]
    found = _of_kshot(adapted, model, texts, seconds)
    if file := gguf_of(model):
        assert isinstance(loaded, Session)
        found |= _of_llama(adapted, loaded, file, texts, seconds * _SHARE)
        rates = {name.removesuffix("_per_s"): rate for name, rate in found.items() if name.startswith("llama_")}
        found |= {f"times_{name}": found["per_s"] / rate for name, rate in rates.items()}
    return found


def _of_kshot(adapted: AdaptedModel, model: str, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        adapted.save(folder)
        command = [sys.executable, "-m", "kshot.cli.main", "serve", folder, "--port", "0", "--model", model]
        with _running(command, SERVED_AT) as address:
            load = asyncio.run(_load(address, _predict, texts, seconds, memory_after=0.2))
            alone = asyncio.run(_load(address, _predict, texts, seconds * _SHARE, n_clients=1))
            after = _rss(address)
    return {
        **{name: load[name] for name in ("per_s", "p50_ms", "p99_ms", "n", "n_5xx", "n_429", "rss_mb")},
        "rss_growth": after / load["rss_mb"] - 1,
        "alone_ms": alone["p50_ms"],
    }


async def _predict(client: httpx2.AsyncClient, text: str) -> int:
    return (await client.post("/predict", json={"inputs": [text]})).status_code


def _of_llama(
    adapted: AdaptedModel, loaded: Session, file: Path, texts: Sequence[str], seconds: float
) -> dict[str, float]:
    own = adapted.fitted.model
    assert own is not None
    labels = [loaded.backbone.tokenise(own.layout.answer(label)) for label in adapted.task.labels]
    ends = sorted({ids[:n] for ids in labels for n in range(len(ids))})  # after which something is read
    prompts = {
        text: loaded.encode(own.prompt(adapted.fitted.shown[0], Example(text, "", text))[0]).ids for text in texts
    }
    found: dict[str, float] = {}
    for name, cache, ways in (
        ("llama_first_token_per_s", "", [()]),
        ("llama_first_token_swa_full_per_s", "full", [()]),
        ("llama_whole_labels_swa_full_per_s", "full", ends),
    ):

        async def ask(client: httpx2.AsyncClient, text: str, ways: Sequence[tuple[int, ...]] = ways) -> int:
            statuses = [await _next_token(client, (*prompts[text], *end)) for end in ways]
            return max(statuses)

        room = N_CLIENTS * (max(map(len, prompts.values())) + 64)
        command = [sys.executable, "-c", _LLAMA, str(file), str(room), str(N_CLIENTS), cache]
        with _running(command, "at ") as address:
            load = asyncio.run(_load(address, ask, texts, seconds))
        if load["n_5xx"]:
            raise ModelError(f"llama.cpp's server must answer; {load['n_5xx']} answers were errors. Look at its log.")
        found[name] = load["per_s"]
    return found


async def _next_token(client: httpx2.AsyncClient, ids: Sequence[int]) -> int:
    body = {"prompt": list(ids), "n_predict": 1, "n_probs": 20, "temperature": 0, "cache_prompt": True}
    return (await client.post("/completion", json=body)).status_code


@contextmanager
def _running(command: Sequence[str], mark: str) -> Iterator[str]:
    """Start a server, whose address stands after a mark in what it says, and end it."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stderr
    assert process.stdin
    try:
        said = next((line for line in process.stderr if mark in line), "")
        if not said:
            raise ModelError("A server must start to be measured; it ended. Start it by hand, and read what it says.")
        # A server that logs its requests stops where nobody reads them
        reader = Thread(target=process.stderr.read, daemon=True)
        reader.start()
        yield said.split(mark)[1].split()[0].removesuffix("/v1")
        process.stdin.close()
        process.terminate()
        reader.join()
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stderr.close()


async def _load(
    address: str,
    ask: Ask,
    texts: Sequence[str],
    seconds: float,
    *,
    n_clients: int = N_CLIENTS,
    memory_after: float | None = None,
) -> dict[str, Any]:
    """Ask until the time is over; what is asked first, a query for each client, does not count."""
    numbers, took, statuses = count(), list[float](), list[int]()
    rss = 0.0
    async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
        await asyncio.gather(*(ask(client, texts[i]) for i in range(n_clients)))
        began = time.perf_counter()

        async def one() -> None:
            nonlocal rss
            while (now := time.perf_counter()) < began + seconds:
                statuses.append(await ask(client, texts[next(numbers) % len(texts)]))
                took.append(time.perf_counter() - now)
                if memory_after is not None and not rss and now > began + memory_after * seconds:
                    rss = 1.0  # nobody else
                    rss = await asyncio.to_thread(_rss, address)

        await asyncio.gather(*(one() for _ in range(n_clients)))
        lasted = time.perf_counter() - began
    return {
        "per_s": statuses.count(200) / lasted,
        "p50_ms": 1000 * float(np.percentile(took, 50)),
        "p99_ms": 1000 * float(np.percentile(took, 99)),
        "n": len(took),
        "n_5xx": sum(status >= 500 for status in statuses),
        "n_429": statuses.count(429),
        "rss_mb": rss,
    }


def _rss(address: str) -> float:
    """Return what the server says of its memory, in MB."""
    lines = httpx2.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes ")) / 2**20
