"""What the rows of the benchmark `retrieval` say: tables by task and category, and paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rows import difference_line, paired

Row = dict[str, Any]
HELD_OUT = "held out"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return each recipe's means by category and over categories, and its paired differences to the others.

    Metrics of different kinds are not averaged, but compared with random draws in the same category; the held-out task
    stands apart.
    """
    found: dict[str, Any] = {}
    recipes = list(dict.fromkeys(r["recipe"] for r in rows))
    for name in recipes:
        mine = {r["task"]: r for r in rows if r["recipe"] == name}
        base = {r["task"]: r for r in rows if r["recipe"] == "random"}
        trained = [t for t in mine if mine[t]["category"] != HELD_OUT and t in base]
        gains = {
            mine[t]["category"]: 100 * (mine[t]["metric"] / base[t]["metric"] - 1) for t in trained if base[t]["metric"]
        }
        found[name] = {
            "tasks": len(trained),
            "one_shot_nats": _mean([mine[t]["one_shot_nats"] for t in trained]),
            "recall_of_best": _mean([mine[t]["recall_of_best"] for t in trained]),
            "metric_by_category": {mine[t]["category"]: mine[t]["metric"] for t in mine},
            "gain_over_random_percent": gains,
            "median_gain_percent": float(np.median(list(gains.values()) or [np.nan])),
            "against": {other: _differences(name, other, rows) for other in recipes if other != name},
        }
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _differences(ours: str, theirs: str, rows: Sequence[Row]) -> dict[str, dict[str, float]] | None:
    """Return the paired differences of one-shot scores and of k-shot scores, over the tasks that both have."""
    mine, other = ({r["task"]: r for r in rows if r["recipe"] == name and r["category"] != HELD_OUT}
                   for name in (ours, theirs))  # fmt: skip
    both = [t for t in mine if t in other]
    if not both:
        return None
    return {what: paired([mine[t][what] for t in both], [other[t][what] for t in both])
            for what in ("one_shot", "scores")}  # fmt: skip


def page(found: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the results as Markdown."""
    recipes = list(found["summary"])
    lines = [
        "# Retrievers that learn from the model's feedback",
        "",
        f"Made by `kshot bench retrieval --data DIR` ({found['done']} of {found['planned']} measurements).",
        "Gemma-3-270M; pools of 400 training rows a task, 200 of them queries with 16 candidates each; one retriever",
        "for all tasks but the held-out one; 100 test rows a task, 8 demonstrations, the best next to the query.",
        "",
        "## One demonstration alone",
        "",
        "Mean log-probability (nats a token) of the right answer after one demonstration, over the 8 retrieved.",
        "",
        *_table(rows, recipes, "one_shot_nats", "{:.3f}"),
        "",
        "## The model's own best three in the first eight",
        "",
        "Of 32 random examples of the pool, the same for all retrievers; chance is 0.25.",
        "",
        *_table(rows, recipes, "recall_of_best", "{:.2f}"),
        "",
        "## Eight demonstrations",
        "",
        "The task's metric; metrics of different kinds are not averaged. The last line is the median of the",
        "categories' relative gains over random draws.",
        "",
        *_table(rows, recipes, "metric", "{:.3f}"),
        _line("median gain over random", [_percent(found["summary"][name]["median_gain_percent"]) for name in recipes]),
        "",
        "## Paired differences",
        "",
        "Means over the trained tasks, each in points of its own metric, with 95 % intervals over test rows.",
        "",
    ]
    for name in recipes:
        for other, gaps in found["summary"][name]["against"].items():
            if name.startswith("llm-r") and gaps and not (other.startswith("llm-r") and other > name):
                one = gaps["one_shot"]
                lines.append(difference_line(name, other, gaps["scores"]) + f"; one demonstration alone "
                             f"{one['difference']:+.3f} nats ({one['low']:+.3f} to {one['high']:+.3f})")  # fmt: skip
    return "\n".join([*lines, *_by_category(rows, recipes)]) + "\n"


def _by_category(rows: Sequence[Row], recipes: Sequence[str]) -> list[str]:
    """Return in which categories the last retriever that learns gains over random draws, and whether that is clear."""
    cells = {(r["recipe"], r["task"]): r for r in rows}
    ours = [name for name in recipes if name.startswith("llm-r")][-1:]
    tasks = [
        t for name, t in cells if [name] == ours and ("random", t) in cells and cells[name, t]["category"] != HELD_OUT
    ]
    if not tasks:
        return []
    lines = [
        "",
        f"## Where {ours[0]} gains over random draws",
        "",
        "With eight demonstrations; intervals over test rows.",
        "",
        _line("category, task", ["points (95 %)", "relative gain", "clear"]),
        _line("---", ["---"] * 3),
    ]
    gaps = {t: paired([cells[ours[0], t]["scores"]], [cells["random", t]["scores"]]) for t in tasks}
    for task, gap in gaps.items():
        mine, base = cells[ours[0], task], cells["random", task]
        middle, low, high = (f"{100 * gap[key]:+.1f}" for key in ("difference", "low", "high"))
        clear = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else ""
        relative = _percent(100 * (mine["metric"] / base["metric"] - 1)) if base["metric"] else ""
        lines.append(
            _line(f"{mine['category']}: {task.partition('/')[2]}", [f"{middle} ({low} to {high})", relative, clear])
        )
    largest = sorted(tasks, key=lambda t: -gaps[t]["difference"])[:2]
    rest = [t for t in tasks if t not in largest]
    gap = paired([cells[ours[0], t]["scores"] for t in rest], [cells["random", t]["scores"] for t in rest])
    names = " and ".join(t.partition("/")[2] for t in largest)
    return [*lines, "", difference_line(ours[0], f"random without {names}", gap)]


def _table(rows: Sequence[Row], recipes: Sequence[str], what: str, form: str) -> list[str]:
    tasks = list(dict.fromkeys((r["category"], r["task"], r["metric_name"]) for r in rows))
    lines = [_line("category, task", recipes), _line("---", ["---"] * len(recipes))]
    for category, task, metric in tasks:
        values = {r["recipe"]: r[what] for r in rows if r["task"] == task}
        label = f"{category}: {task.partition('/')[2]}" + (f" ({metric})" if what == "metric" else "")
        lines.append(_line(label, [form.format(values[name]) if name in values else "" for name in recipes]))
    return lines


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.1f} %"
