"""Compare `context-adapter` with prompts and `soft-injection` where a query costs as many tokens, and print a table.

    python benchmarks/context_adapter.py --data DIR --model demo --out DIR [--limit 40] [--tasks classification/trec,…]

Per query the adapter runs 16 tokens beside the question's own, once for all queries of a call: about as many as one
demonstration has; `soft-injection` and `zero-shot` run the question alone, and `random:k=8` all that the adapter reads.
Each run is a process of its own; the same `--out` reuses finished runs.
"""

import argparse
import json
import subprocess
from pathlib import Path

TASKS = ("classification/trec", "classification/sst2", "functions/antonym", "intent/snips")
RECIPES = (
    "zero-shot",
    "random:k=1",
    "soft-injection",
    "context-adapter:k=8,latents=16,lr=1e-3/3e-3,steps=3",
    "icl+ft:k=8,lr=3e-4,steps=1",
    "random:k=8",
)


def run(task: str, options: argparse.Namespace) -> dict[str, dict]:
    """Return the rows of a task's leaderboard by recipe."""
    folder = options.out / task.replace("/", "-")
    command = ["kshot", "adapt", options.data / task, "--model", options.model, "--recipes", options.recipes]
    command += ["--limit", options.limit, "--out", folder, "--json"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return {row["recipe"]: row for row in json.loads(done.stdout)["leaderboard"]}


def main() -> None:
    """Print for each task and recipe the metric along the stream, bits, and tokens of a query."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the families")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    options = parser.parse_args()
    print("| task | recipe | metric | bits | tokens of a query |\n|---|---|---|---|---|")
    for task in options.tasks.split(","):
        for name, row in run(task, options).items():
            if row["status"] == "done":
                numbers = f"{row['metric']:.3f} | {row['bits_per_example']:.2f} | {row['query_tokens']:.0f}"
                print(f"| {task} | `{name}` | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
