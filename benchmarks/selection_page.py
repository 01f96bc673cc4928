"""What the rows of the benchmark `selection` say: tables, differences to random draws, percentiles, and a figure."""

from pathlib import Path
from typing import Any

import numpy as np
from rows import difference_line, paired

from kshot.core.seeding import generator

N_BOOTSTRAP = 2000
MATCHING = "gradient-matching"
EIGHT, NEAREST = "the pick among eight sets", f"{MATCHING}:candidates=1,normalize=none"


def against_random(ours: list[list[float]], draws: list[list[list[float]]]) -> dict[str, float]:
    """Return the mean over tasks of the difference to the mean of random draws, with its 95 % bootstrap interval.

    Test rows are resampled in pairs, and the draws too, so that the interval knows how far random sets lie apart.

    Args:
        ours: For each task the value of each test row.
        draws: For each task and draw the value of each test row.
    """
    rng = generator(0, "against-random")
    pairs = [(np.array(a), np.array(b)) for a, b in zip(ours, draws, strict=True)]
    means = []
    for _ in range(N_BOOTSTRAP):
        gaps = []
        for mine, theirs in pairs:
            rows = rng.integers(len(mine), size=len(mine))
            some = rng.integers(len(theirs), size=len(theirs))
            gaps.append(mine[rows].mean() - theirs[some][:, rows].mean())
        means.append(np.mean(gaps))
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(np.mean([a.mean() - b.mean() for a, b in pairs])),
        "low": float(low),
        "high": float(high),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a table for each layer, pair of models and k."""
    found = {}
    groups = dict.fromkeys((_layer(r), r["chosen_by"], r["answered_by"], r["k"]) for r in rows)
    for layer, chooser, answerer, k in sorted(groups):
        some = [r for r in rows if (_layer(r), r["answered_by"], r["k"]) == (layer, answerer, k)]
        draws = [r for r in some if r["recipe"].startswith("draw-")]
        mine = [r for r in some if r["chosen_by"] == chooser and not r["recipe"].startswith("draw-")]
        table = _table(mine, draws)
        if table:
            how = f"chosen by {chooser}, " if chooser != answerer else ""
            found[f"{layer}: {how}answered by {answerer}, k = {k}"] = table
    return found


def _layer(row: dict[str, Any]) -> str:
    """Return which rows stand in one table: those on training rows, or those on test rows."""
    if row.get("pool"):
        return "test rows, a second pool"
    return "variants on training rows" if row["layer"] == "0-variants" else "test rows"


def _table(mine: list[dict[str, Any]], draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each method its tasks, its mean, its difference to random, and its percentile among random sets."""
    tasks = list(dict.fromkeys(r["task"] for r in draws))
    table = {}
    for name in dict.fromkeys(r["recipe"] for r in mine):
        cells = {r["task"]: r for r in mine if r["recipe"] == name and r["task"] in tasks}
        if not cells:
            continue
        random = {t: [_first_rows(r, row) for r in draws if r["task"] == t] for t, row in cells.items()}
        found = {t: _cell(row, random[t]) for t, row in cells.items()}
        table[name] = {
            "tasks": found,
            "metric": float(np.mean([row["metric"] for row in cells.values()])),
            "random_metric": float(np.mean([np.mean([r["metric"] for r in random[t]]) for t in cells])),
            "bits": float(np.mean([row["bits_per_example"] for row in cells.values()])),
            "random_bits": float(np.mean([np.mean([r["bits_per_example"] for r in random[t]]) for t in cells])),
            "metric_gap": _gap(cells, random, "scores"),
            "bits_gap": _gap(cells, random, "bits"),
            "percentile_metric": float(np.mean([cell["percentile"] for cell in found.values()])),
            "percentile_bits": float(np.mean([cell["percentile_bits"] for cell in found.values()])),
        }
    return table


def _first_rows(draw: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return a draw's row over those test rows that another row was measured on: the first ones."""
    if len(draw["bits"]) == len(row["bits"]):
        return draw
    scores, bits = draw["scores"][: len(row["scores"])], draw["bits"][: len(row["bits"])]
    more = {"metric": float(np.mean(scores)), "bits_per_example": float(np.mean(bits))}
    return draw | {"scores": scores, "bits": bits, **more}


def _gap(cells: dict[str, dict[str, Any]], random: dict[str, list[dict[str, Any]]], key: str) -> dict[str, float]:
    return against_random([cells[t][key] for t in cells], [[r[key] for r in random[t]] for t in cells])


def _cell(row: dict[str, Any], random: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a method on one task, and how many percent of the random sets are worse (ties count half)."""
    worse = [np.sign(row["metric"] - r["metric"]) for r in random]
    dearer = [np.sign(r["bits_per_example"] - row["bits_per_example"]) for r in random]
    return {
        "metric": row["metric"],
        "random": float(np.mean([r["metric"] for r in random])),
        "gap": against_random([row["scores"]], [[r["scores"] for r in random]]),
        "bits": row["bits_per_example"],
        "random_bits": float(np.mean([r["bits_per_example"] for r in random])),
        "bits_gap": against_random([row["bits"]], [[r["bits"] for r in random]]),
        "percentile": float(50 + 50 * np.mean(worse)),
        "percentile_bits": float(50 + 50 * np.mean(dearer)),
        **{name: row["matching"][name] for name in ("error", "random_error", "norm_percentile") if "matching" in row},
    }


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Which demonstrations to show",
        "",
        "Made by `kshot bench selection --data DIR` (Gemma-3-270M as `demo`, SmolLM2-135M-Instruct as `smollm2`; CPU, "
        f"fp32); rows are in selection.json. {result['done']} of {result['planned']} units of the plan are done.",
        "",
        "Pool of 200 training rows, 100 test rows a task, 8 random draws. Differences are to the mean of the random "
        "draws; their 95 % intervals come from resampling test rows, in pairs, and draws. The percentile says how many "
        "of the random sets are worse. Of open tasks (smcalflow, geoquery_sql) texts are generated for 20 test rows; "
        "bits are of all. `bm25` and `dense` choose for each query, all others once for the task; as no prompts share "
        "anything, they are measured on the first 50 test rows at k = 32, and compared with random sets on these.",
    ]
    if any(r["recipe"] == MATCHING and _layer(r) == "test rows" for r in result["rows"]):
        lines += ["", "![Matching error, and accuracy, against the number of demonstrations](selection.png)"]
    for name, table in result["summary"].items():
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_means(table), ""]
        lines += [
            *_per_task(table, "metric", "random", "gap"),
            "",
            *_per_task(table, "bits", "random_bits", "bits_gap"),
        ]
        lines += [
            "",
            "+ and - mark values above and below random whose interval of the difference lies on one side of 0.",
        ]
    return "\n".join([*lines, *_picked(result["rows"])]) + "\n"


def _picked(rows: list[dict[str, Any]]) -> list[str]:
    """Return whether choosing among several near sets was better than the nearest set alone, on test rows."""
    cells = {(r["recipe"], r["k"], r["task"]): r for r in rows
             if _layer(r) == "test rows" and r["chosen_by"] == r["answered_by"] == "demo"}  # fmt: skip
    lines = []
    for k in sorted({k for _, k, _ in cells}):
        both = [t for name, n, t in cells if (name, n) == (NEAREST, k) and (MATCHING, k, t) in cells]
        if both:
            gap = paired(*([cells[name, k, t]["scores"] for t in both] for name in (MATCHING, NEAREST)))
            names = ", ".join(t.rpartition("/")[2] for t in both)
            lines.append(difference_line(EIGHT, f"the nearest alone, k = {k} ({names})", gap))
    return ["", "## The model's pick among eight near sets, on test rows", "", *lines] if lines else []


def _means(table: dict[str, Any]) -> list[str]:
    lines = [
        "| method | tasks | metric | random | difference in points | bits | random | difference | "
        "percentile (metric, bits) |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |",
    ]
    for name, row in table.items():
        points, bits = _between(row["metric_gap"], 100, 1), _between(row["bits_gap"], 1, 2)
        lines.append(
            f"| {name} | {len(row['tasks'])} | {row['metric']:.3f} | {row['random_metric']:.3f} | {points} | "
            f"{row['bits']:.2f} | {row['random_bits']:.2f} | {bits} | {row['percentile_metric']:.0f}, "
            f"{row['percentile_bits']:.0f} |"
        )
    return lines


def _between(gap: dict[str, float], factor: float, digits: int) -> str:
    middle, low, high = (f"{factor * gap[key]:+.{digits}f}" for key in ("difference", "low", "high"))
    return f"{middle} ({low} to {high})"


def _per_task(table: dict[str, Any], key: str, random_key: str, gap_key: str) -> list[str]:
    tasks = list(dict.fromkeys(t for row in table.values() for t in row["tasks"]))
    lines = [f"| {key} | {' | '.join(t.rpartition('/')[2] for t in tasks)} |", "| --- |" + " ---: |" * len(tasks)]
    # Of all test rows: the methods measured on fewer stand after the others
    random = {t: cell[random_key] for row in reversed(table.values()) for t, cell in row["tasks"].items()}
    lines.append(f"| random, mean of draws | {' | '.join(f'{random[t]:.2f}' for t in tasks)} |")
    for name, row in table.items():
        lines.append(f"| {name} | {' | '.join(_marked(row['tasks'].get(t), key, gap_key) for t in tasks)} |")
    return lines


def _marked(cell: dict[str, Any] | None, key: str, gap_key: str) -> str:
    if cell is None:
        return ""
    sign = "+" if cell[gap_key]["low"] > 0 else "-" if cell[gap_key]["high"] < 0 else ""
    return f"{cell[key]:.2f}{sign}"


def figure(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the matching error beside the random law, and the metric, against k, as means over the same tasks.

    Gradients have no scale of their own: errors are divided by what random sets of the smallest k have on a task.
    """
    from matplotlib.figure import Figure

    some = [r for r in rows if _layer(r) == "test rows" and r["chosen_by"] == r["answered_by"] == "demo"]
    matched = {(r["task"], r["k"]): r["matching"] for r in some if r["recipe"] == MATCHING}
    tasks, ks = {t for t, _ in matched}, sorted({k for _, k in matched})
    if not ks or len(matched) < len(tasks) * len(ks):
        return
    found: dict[str, dict[tuple[str, int], list[float]]] = {}  # metrics by method, task and k
    for r in some:
        name = "random, mean of draws" if r["recipe"].startswith("draw-") else r["recipe"]
        found.setdefault(name, {}).setdefault((r["task"], r["k"]), []).append(r["metric"])
    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for key, label in (("error", "gradient matching"), ("random_error", "random sets (expected)")):
        means = [np.mean([matched[t, k][key] / matched[t, ks[0]]["random_error"] for t in tasks]) for k in ks]
        left.plot(ks, means, "o-", label=label)
    for name, cells in found.items():
        if matched.keys() <= cells.keys():  # else its mean would be one over other tasks
            strong = name == MATCHING or name.startswith("random")
            means = [np.mean([np.mean(cells[t, k]) for t in tasks]) for k in ks]
            right.plot(ks, means, "o-", label=name, alpha=1.0 if strong else 0.5)
    left.set(xlabel="demonstrations", ylabel=f"matching error (random, k = {ks[0]}: 1)", xscale="log")
    left.set_ylim(0)
    right.set(xlabel="demonstrations", ylabel=f"metric, mean over {len(tasks)} tasks", xscale="log")
    for axes in (left, right):
        axes.set_xticks(ks, [str(k) for k in ks], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7)
    drawn.savefig(file, dpi=130, metadata={"Software": None})
