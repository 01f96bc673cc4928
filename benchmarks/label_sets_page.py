"""What the rows of the benchmark `label-sets` say: means over draws for each task and recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OPENING = """\
`kshot bench label-sets --data DIR` measures this: Gemma-3-270M, 100 labelled examples, 200 test rows; the mean over
draws of the training set, with the least and the most. `one-vs-rest` is scikit-learn's logistic regression on MiniLM's
embeddings, one for each label, each said from probability 1/2 on; `embedding-lr` is the same with a threshold that was
fitted on the past. `all` is the race of all recipes, with `--budget 10m` where that is said. Seconds are of loading,
learning and answering the test rows, and CPU seconds are those of all threads. With one thread the machine was shared;
with two, nothing else ran on it."""
METRICS = ("micro_f1", "macro_f1", "exact_match", "hamming")
COSTS = ("seconds", "cpu_seconds")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task, recipe, threads and budget: each metric's mean, least and most over draws."""
    found: dict[tuple[str, str, int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["task"], row["recipe"], row.get("threads", 1), row.get("budget", ""))
        found.setdefault(key, []).append(row)
    result = []
    for (task, recipe, threads, budget), draws in found.items():
        values = {m: [f([row[m] for row in draws]) for f in (np.mean, np.min, np.max)] for m in METRICS}
        costs = {name: float(np.mean([row[name] for row in draws])) for name in COSTS}
        chosen = sorted({row["chosen"] for row in draws})
        metrics = {m: [float(v) for v in three] for m, three in values.items()}
        about = {
            "task": task,
            "recipe": recipe,
            "chosen": chosen,
            "draws": len(draws),
            "threads": threads,
            "budget": budget,
        }
        result.append(about | metrics | costs)
    return result


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# Sets of labels", "", OPENING, "", f"{result['done']} of {result['planned']} units are done."]
    columns = ("recipe", "draws", "micro F1", "macro F1", "exact", "Hamming", "threads", "seconds", "CPU seconds")
    for task in dict.fromkeys(row["task"] for row in result["summary"]):
        lines += ["", f"## {task}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [_line(row) for row in result["summary"] if row["task"] == task]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    metrics = ["{:.3f} ({:.3f} to {:.3f})".format(*row[m]) for m in METRICS]
    chosen = "" if row["chosen"] == [row["recipe"]] else f", which chose {', '.join(f'`{c}`' for c in row['chosen'])}"
    name = f"`{row['recipe']}`" + (f" with `--budget {row['budget']}`" if row["budget"] else "")
    cells = [f"{name}{chosen}", str(row["draws"]), *metrics, str(row["threads"])]
    cells += [f"{row[name]:,.0f}" for name in COSTS]
    return f"| {' | '.join(cells)} |"
