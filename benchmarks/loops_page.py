"""What the rows of the benchmark `loops` say: each loop beside the same recipe without it, and what it left."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rows import paired

NONE = "none"
OPENING = """\
`kshot bench loops --data DIR` measures this: Gemma-3-270M in every role, 30 labelled examples, 200 test rows,
uncalibrated; a loop talks about the 30 within its usual ledger (400 calls). `zero-shot` has what the loop leaves alone,
`all-past` shows the 30 examples too. The difference is from the same recipe without the loop, in points of the task's
metric, with its 95 % interval in pairs over test rows, which knows nothing of other draws. Seconds are of
one thread, beside other work. Under each table stands what the loops say of themselves in the first draw."""
COLUMNS = ("loop", "draws", "metric", "bits", "from none", "tokens", "seconds to fit")
TOLD = ("rounds", "ended", "notes", "solved_by_turn", "lessons", "by_turn")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task, recipe and loop: means over draws, and the difference from no loop in pairs."""
    by_unit = {(row["task"], row["base"], row["loop"], row["seed"]): row for row in rows}
    found = []
    for key in dict.fromkeys(key[:3] for key in by_unit):
        task, base, loop = key
        draws = {seed: row for (*names, seed), row in by_unit.items() if tuple(names) == key}
        plain = {seed: row for seed in draws if (row := by_unit.get((task, base, NONE, seed)))}
        shared = sorted(plain) if loop != NONE else []
        pairs = [[row["scores"] for row in (draws[s], plain[s])] for s in shared]
        names = ("metric", "bits_per_example", "query_tokens", "fit_seconds")
        found.append({
            "task": task, "base": base, "loop": loop, "draws": len(draws),
            **{name: float(np.mean([row[name] for row in draws.values()])) for name in names},
            "gap": paired(*zip(*pairs, strict=True)) if pairs else None,
            "told": draws[min(draws)]["told"],
        })  # fmt: skip
    return found


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# Learning from talking", "", OPENING, "", f"{result['done']} of {result['planned']} units are done."]
    for task, base in dict.fromkeys((row["task"], row["base"]) for row in result["summary"]):
        lines += ["", f"## {task}, {base}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        rows = [row for row in result["summary"] if (row["task"], row["base"]) == (task, base)]
        lines += [*map(_line, rows), "", *(f"- `{row['loop']}`: {_said(row['told'])}" for row in rows if row["told"])]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    gap = row["gap"]
    told = f"{100 * gap['difference']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})" if gap else ""
    numbers = [f"{row['metric']:.3f}", f"{row['bits_per_example']:.2f}", told]
    cells = [row["loop"], str(row["draws"]), *numbers, f"{row['query_tokens']:.0f}", f"{row['fit_seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def _said(told: Mapping[str, Any]) -> str:
    """Return what a loop has noted of itself, on one line."""
    there = [name for name in TOLD if told.get(name) not in (None, "")]
    said = [f"{name.replace('_', ' ')}: {json.dumps(told[name], ensure_ascii=False)}" for name in there]
    return "; ".join(said) or "nothing"
