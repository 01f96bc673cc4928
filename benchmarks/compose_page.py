"""What the rows of the benchmark `compose` say: a table for each method, with differences in pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from comparisons import COMPARISONS, Comparison

from kshot.core.seeding import generator

N_BOOTSTRAP = 2000
OPENING = """\
`kshot bench compose --data DIR` measures this: each method with its natural control, on the same training and test
rows, uncalibrated. There are 100 training rows, of which at most 4 are shown unless a recipe says otherwise. A
difference is in points of the task's metric, with its 95 % interval over test rows and draws in pairs; where there is
one draw, the interval knows nothing of others. Bits are those of the right answer; tokens are what the model ran for a
query, and once to fit."""
COLUMNS = ("task", "model", "draws", "rows", "metric", "method", "control", "difference", "bits", "control", "tokens",
           "control", "fit")  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each method, task and model: method, control, and their difference over draws and test rows."""
    by_key = {(r["task"], r["recipe"], r["model"], r["seed"]): r for r in rows}
    models = sorted({r["model"] for r in rows})
    return [
        found
        for comparison in COMPARISONS
        for task in comparison.tasks
        for model in models
        if (found := _compared(comparison, task, model, by_key))
    ]


def _compared(
    comparison: Comparison, task: str, model: str, by_key: dict[tuple[str, str, str, int], dict[str, Any]]
) -> dict[str, Any] | None:
    seeds = [
        seed
        for t, recipe, m, seed in sorted(by_key)
        if (t, recipe, m) == (task, comparison.recipe, model) and (task, comparison.control, model, seed) in by_key
    ]
    if not seeds:
        return None
    ours, theirs = (
        [by_key[task, recipe, model, seed] for seed in seeds] for recipe in (comparison.recipe, comparison.control)
    )
    n_rows, n_bits = (min(len(r[key]) for r in (*ours, *theirs)) for key in ("scores", "bits"))
    return {
        "method": comparison.method,
        "task": task,
        "model": model,
        "draws": len(seeds),
        "n_test": n_rows,
        "metric_name": ours[0]["metric_name"],
        "metric": _mean(ours, "scores", n_rows),
        "control": _mean(theirs, "scores", n_rows),
        **_difference(ours, theirs, "scores", n_rows),
        "bits": _mean(ours, "bits", n_bits),
        "control_bits": _mean(theirs, "bits", n_bits),
        **{
            f"{whose}_{key}": float(np.mean([r[key] for r in some]))
            for whose, some in (("own", ours), ("control", theirs))
            for key in ("run_tokens", "fit_tokens")
        },
    }


def _mean(rows: Sequence[dict[str, Any]], key: str, n: int) -> float:
    return float(np.mean([np.mean(r[key][:n]) for r in rows]))


def _difference(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str, n: int) -> dict[str, float]:
    """Return the mean difference with its 95 % bootstrap interval, test rows and draws resampled in pairs."""
    rng = generator(0, "compose")
    gaps = np.array([np.array(a[key][:n]) - np.array(b[key][:n]) for a, b in zip(ours, theirs, strict=True)])
    means = []
    for _ in range(N_BOOTSTRAP):
        some, rows = (rng.integers(size, size=size) for size in gaps.shape)
        means.append(gaps[some][:, rows].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": float(gaps.mean()), "low": float(low), "high": float(high)}


def page(result: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# What is shown, and how it is said: methods against their controls",
        "",
        OPENING,
        "",
        f"{result['done']} of {result['planned']} units are measured; the rest is open.",
        "",
    ]
    for comparison in COMPARISONS:
        rows = [r for r in result["summary"] if r["method"] == comparison.method]
        lines += [f"## {comparison.method}", "", comparison.question, ""]
        lines += [f"`{comparison.recipe}` against `{comparison.control}`", ""]
        if not rows:
            lines += ["Not measured yet.", ""]
            continue
        lines += [
            f"| {' | '.join(COLUMNS)} |",
            "|---" * len(COLUMNS) + "|",
            *map(_line, rows),
            "",
            _in_words(rows),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _line(row: dict[str, Any]) -> str:
    gap = f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    cells = (
        row["task"],
        row["model"],
        row["draws"],
        row["n_test"],
        row["metric_name"],
        f"{row['metric']:.3f}",
        f"{row['control']:.3f}",
        gap,
        f"{row['bits']:.2f}",
        f"{row['control_bits']:.2f}",
        f"{row['own_run_tokens']:,.0f}",
        f"{row['control_run_tokens']:,.0f}",
        f"{row['own_fit_tokens']:,.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _in_words(rows: Sequence[dict[str, Any]]) -> str:
    better, worse = (sum(sign * r[end] > 0 for r in rows) for sign, end in ((1, "low"), (-1, "high")))
    fewer = sum(r["bits"] < r["control_bits"] for r in rows)
    n = len(rows)
    return f"Better beyond chance on {better} of {n}, worse on {worse}; fewer bits on {fewer}."
