"""How much memory and time a run with many labels takes.

    python benchmarks/many_labels.py [--labels N] [--rows N] [--recipes NAMES]

Runs in a process of its own, with the model `scripted`. Prints seconds, those of the processor, the most memory it had,
and how much of that came after the imports.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = "majority,tfidf-lr,zero-shot,random,bm25"


def write_task(folder: Path, labels: int, rows: int) -> None:
    """Write a task whose rows have labels in turn."""
    names = [f"label number {i}" for i in range(labels)]
    lines = [{"input": f"row {i} says word{i % labels} and word{i % 7}", "output": names[i % labels]}
             for i in range(rows)]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "task.json").write_text(json.dumps({"kind": "classification", "labels": names}))


def run(folder: Path, recipes: str) -> dict[str, float]:
    """Adapt in this process; return what it took."""
    from kshot.verbs.adapt import adapt

    before = _most_mb()
    began = time.monotonic()
    adapt(folder, "scripted", recipes=recipes, out=folder / "run", race=False)
    seconds = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time()}
    return {**seconds, "most_mb": _most_mb(), "after_imports_mb": _most_mb() - before}


def _most_mb() -> float:
    """Return the most memory of this process; on Linux `ru_maxrss` begins with that of the process that started it."""
    if sys.platform == "linux":
        (found,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), flags=re.M)
        return int(found) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measured(*, labels: int, rows: int, recipes: str = RECIPES) -> dict[str, float]:
    """Return what a run takes, as `run`, in a new process."""
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:
        write_task(Path(folder), labels, rows)
        command = [sys.executable, __file__, "--inside", folder, "--recipes", recipes]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(run(options.inside, options.recipes)))
        return
    for key, value in measured(labels=options.labels, rows=options.rows, recipes=options.recipes).items():
        print(f"{key}: {value:.1f}")


if __name__ == "__main__":
    main()
