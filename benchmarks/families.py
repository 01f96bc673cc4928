"""Run `kshot adapt` on one task of each family of the shared data, and print a table with the time each run took.

    python benchmarks/families.py --data DIR --model demo --out DIR [--limit 40]

Each run is a process of its own; nothing else should run on the machine. The same `--out` reuses finished runs, whose
times are then those of the first time.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from kshot.store.files import write_json

TASKS = (
    "bbh/object_counting",
    "classification/trec",
    "functions/country_capital",
    "generation/e2e_nlg",
    "grounding/counterfact_hard",
    "intent/atis_intent",
    "math/addsub",
    "natural_instructions/evalution_relation",
    "parsing/atis_slots",
    "qa/nq_open",
)
RECIPES = "zero-shot,random,bm25,dense"


def run(task: str, options: argparse.Namespace) -> dict:
    """Return the result of `kshot adapt --json` on a task, with `wall_s`; kept in a file beside the run."""
    folder = options.out / task.replace("/", "-")
    kept = folder / "families.json"
    if kept.exists():
        return json.loads(kept.read_text("utf-8"))
    command = ["kshot", "adapt", options.data / task, "--model", options.model, "--recipes", RECIPES]
    command += ["--limit", str(options.limit), "--out", folder, "--json"]
    began = time.monotonic()
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout) | {"wall_s": time.monotonic() - began}
    write_json(kept, result)
    return result


def main() -> None:
    """Print a table in Markdown: for each recipe the metric and the bits, and the seconds of the whole command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the families")
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--limit", type=int, default=40)
    options = parser.parse_args()
    names = RECIPES.split(",")
    print(f"| task | metric | {' | '.join(names)} | chosen | s |\n|{'---|' * (len(names) + 4)}")
    for task in TASKS:
        result = run(task, options)
        rows = {row["recipe"]: row for row in result["leaderboard"]}
        cells = [f"{rows[n]['metric']:.2f} ({rows[n]['bits_per_example']:.1f})" for n in names]
        metric = json.loads((options.data / task / "task.json").read_text("utf-8"))["metrics"][0]
        print(f"| {task} | {metric} | {' | '.join(cells)} | {result['chosen']} | {result['wall_s']:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
