"""What the rows of the benchmark `generate` say: made examples against none and against real ones, and the verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rows import in_points, with_interval

NONE = "none"
OPENING = """\
`kshot bench generate --data DIR` measures this: Gemma-3-270M, 10 or 30 labelled examples, up to 200 test rows. A
generator makes at most as many examples as are known; "real" has as many further labelled ones instead. A prompt shows
all of them, the known ones first. The difference is from the same recipe without any, in points of the task's metric,
uncalibrated, with its 95 % interval over tasks. That is wide: a model that is trained on ten examples may end anywhere,
also where next to nothing was made. "Added" says how often a race along the known examples chose the recipe
with what was made; "right" how often what it chose, with or without, did better on the test rows, of those units in
which one of the two did."""
COLUMNS = ("generator", "tasks", "units", "made", "rejected", "metric", "from none", "added", "right")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each size, recipe and generator: means over tasks and draws, differences, and the verdicts."""
    by_unit = {(row["layer"], row["maker"], row["task"], row["seed"]): row for row in rows}
    result = []
    for layer, maker in dict.fromkeys((row["layer"], row["maker"]) for row in rows):
        own = {key[2:]: row for key, row in by_unit.items() if key[:2] == (layer, maker)}
        plain = {key: row for key in own if (row := by_unit.get((layer, NONE, *key)))}
        shared = sorted(plain) if maker != NONE else []
        gaps: dict[str, list[float]] = {}
        for task, seed in shared:
            gap = own[task, seed]["metric"] - plain[task, seed]["metric"]
            gaps.setdefault(task, []).append(100 * gap)
        judged = [(own[k]["chosen"], own[k]["metric"] - plain[k]["metric"]) for k in shared if "chosen" in own[k]]
        told = [(is_added, gain > 0) for is_added, gain in judged if gain]
        made = [row for row in own.values() if "made" in row]
        result.append({
            "layer": layer,
            "maker": maker,
            "tasks": len({task for task, _ in own}),
            "units": len(own),
            "made": float(np.mean([row["made"] for row in made])) if made else None,
            "rejected": float(np.mean([row["rejected"] for row in made])) if made else None,
            "metric": float(np.mean([row["metric"] for row in own.values()])),
            "gap": with_interval(gaps) if gaps else None,
            "gaps": gaps,
            "added": [sum(is_added for is_added, _ in judged), len(judged)],
            "right": [sum(is_added == is_better for is_added, is_better in told), len(told)],
        })  # fmt: skip
    return sorted(result, key=lambda row: (row["layer"], row["maker"] != NONE))


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# Examples that the model makes itself", "", OPENING, "",
             f"{result['done']} of {result['planned']} units are done."]  # fmt: skip
    for layer in dict.fromkeys(row["layer"] for row in result["summary"]):
        size, _, recipe = layer.partition("-")
        lines += ["", f"## {size} examples, {recipe}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [_line(row) for row in result["summary"] if row["layer"] == layer]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    told = in_points(row["gap"]) if row["gap"] else ""
    counts = ["" if row[name] is None else f"{row[name]:.1f}" for name in ("made", "rejected")]
    shares = [f"{n} of {total}" if total else "" for n, total in (row["added"], row["right"])]
    cells = [row["maker"], str(row["tasks"]), str(row["units"]), *counts, f"{row['metric']:.3f}", told, *shares]
    return f"| {' | '.join(cells)} |"
