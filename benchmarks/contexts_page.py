"""What the rows of the benchmark `contexts` say: tables by number of contexts, paired differences, aims."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from kshot.core.seeding import generator

N_BOOTSTRAP, AIM, AIM_OF_MATCHING = 2000, 0.04, 0.10
RANDOM, MATCHING = "random", "gradient-matching:candidates=16,queries=64"
MOST = 8
MEAN = "arithmetic"
Row = dict[str, Any]
Values = list[list[list[float]]]  # of each task, of each draw of the training set, of each test row


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return the means of each recipe and number of contexts, their gains over one, and those of matching."""
    measured = [r for r in rows if r["recipe"] != "screen"]
    recipes = list(dict.fromkeys(r["recipe"] for r in measured))
    found: dict[str, Any] = {"means": {}, "tasks": {}, "screen": _screen(rows), "geometric": {}}
    for recipe in recipes:
        own = [r for r in measured if r["recipe"] == recipe]
        found["means"][recipe] = {m: _of(own, m) for m in sorted({r["contexts"] for r in own})}
        if {1, MOST} <= {r["contexts"] for r in own}:
            found["tasks"][recipe] = {t: _gain([r for r in own if r["task"] == t]) for t in _tasks(own)}
            found["geometric"][recipe] = {m: _geometric(own, m) for m in found["means"][recipe] if m > 1}
    found["matching"] = {
        name: _between(measured, (MATCHING, ours), (RANDOM, theirs))
        for name, ours, theirs in (
            ("8 contexts over the mean random draw", MOST, 1),
            ("8 contexts over 8 averaged random draws", MOST, MOST),
            ("the first over the mean random draw", "first", 1),
        )
    }
    return found


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r["task"] for r in rows))


def _screen(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return for each task what 8 random examples reach on training rows outside the pool, and the majority there."""
    own = [r for r in rows if r["recipe"] == "screen"]
    return {
        t: {key: float(np.mean([r[key] for r in own if r["task"] == t])) for key in ("metric", "majority")}
        for t in _tasks(own)
    }


def _values(rows: Sequence[Row], m: int | str, key: str, mean: str = MEAN) -> dict[str, dict[int, list[float]]]:
    """Return the values of test rows by task and draw; of `m` "first" there is one number for all rows."""
    if m == "first":
        return {
            t: {r["seed"]: [r["first"]] for r in rows if r["task"] == t and r["contexts"] == 1} for t in _tasks(rows)
        }
    some = [r for r in rows if r["contexts"] == m and r["mean"] == mean]
    return {t: {r["seed"]: r[key] for r in some if r["task"] == t} for t in _tasks(some)}


def _of(rows: Sequence[Row], m: int) -> dict[str, Any]:
    """Return means over tasks at `m` contexts, each with its 95 % interval over tasks, draws and test rows."""
    some = [r for r in rows if r["contexts"] == m and r["mean"] == MEAN]
    keys = ("prompt_tokens", "run_tokens", "query_ms", "disagreement", "fit_tokens")
    return {
        "n_tasks": len(_tasks(some)),
        "metric": over_tasks(_nested(_values(rows, m, "scores"))),
        "bits": over_tasks(_nested(_values(rows, m, "bits"))),
        "first": float(np.mean([np.mean([r["first"] for r in some if r["task"] == t]) for t in _tasks(some)])),
        **{key: float(np.mean([r[key] for r in some])) for key in keys},
    }


def _nested(values: dict[str, dict[int, list[float]]]) -> Values:
    return [list(by_seed.values()) for by_seed in values.values()]


def over_tasks(values: Values) -> dict[str, float]:
    """Return the mean over tasks with its 95 % bootstrap interval: tasks, draws of the training set, test rows.

    The draws of a task have the same test rows, so these are drawn again for all of them together.
    """
    rng, by_task = generator(0, "over-tasks"), []
    for i, seeds in enumerate(values):
        means = _weights(i, len(seeds[0])) @ np.array(seeds).T  # [N_BOOTSTRAP, n_seeds]
        picked = rng.integers(len(seeds), size=means.shape)
        by_task.append(np.take_along_axis(means, picked, axis=1).mean(axis=1))
    table = np.array(by_task).T  # [N_BOOTSTRAP, n_tasks]
    picked = rng.integers(len(values), size=table.shape)
    low, high = np.quantile(np.take_along_axis(table, picked, axis=1).mean(axis=1), [0.025, 0.975])
    return {"value": float(np.mean([np.mean(seeds) for seeds in values])), "low": float(low), "high": float(high)}


@cache
def _weights(task: int, n: int) -> np.ndarray:
    """Return how much each of `n` test rows of a task counts when they are drawn again, `[N_BOOTSTRAP, n]`."""
    return generator(0, "rows", task).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP) / n


def _paired(ours: dict[str, dict[int, list[float]]], theirs: dict[str, dict[int, list[float]]]) -> Values:
    """Return differences row by row, of tasks and draws that both have; a number for all rows is one for each."""
    found = []
    for task in ours.keys() & theirs.keys():
        seeds = sorted(ours[task].keys() & theirs[task].keys())
        found.append((task, [(np.array(ours[task][s]) - np.array(theirs[task][s])).tolist() for s in seeds]))
    return [values for _, values in sorted(found) if values]


def _gain(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `MOST` contexts gain over one on a task."""
    return {
        "one": float(np.mean([r["metric"] for r in rows if r["contexts"] == 1])),
        "eight": float(np.mean([r["metric"] for r in rows if r["contexts"] == MOST and r["mean"] == MEAN])),
        **{
            name: over_tasks(_paired(_values(rows, MOST, key), _values(rows, 1, key)))
            for name, key in (("gain", "scores"), ("bits_gain", "bits"))
        },
    }


def _geometric(rows: Sequence[Row], m: int) -> dict[str, Any]:
    """Return what the geometric mean gains over the arithmetic one at `m` contexts."""
    return {
        key: over_tasks(_paired(_values(rows, m, key, "geometric"), _values(rows, m, key)))
        for key in ("scores", "bits")
    }


def _between(rows: Sequence[Row], ours: tuple[str, int | str], theirs: tuple[str, int | str]) -> dict[str, Any] | None:
    """Return the difference of two recipes, each at a number of contexts, in all and by task; None without rows."""
    sides = [_values([r for r in rows if r["recipe"] == name], m, "scores") for name, m in (ours, theirs)]
    gaps = _paired(*sides)
    tasks = sorted(sides[0].keys() & sides[1].keys())
    if not gaps:
        return None
    return over_tasks(gaps) | {
        "tasks": {t: float(np.mean([np.mean(s) for s in g])) for t, g in zip(tasks, gaps, strict=True)}
    }


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    found = result["summary"]
    lines = [
        "# More contexts than one",
        "",
        "Made by `kshot bench contexts --data DIR` (Gemma-3-270M, CPU, fp32, one thread); rows are in contexts.json. "
        f"{result['done']} of {result['planned']} units of the plan are done.",
        "",
        "8 demonstrations (all-past: as many as make a prompt of about 1,000 tokens) from a pool of 200 training rows "
        "or fewer, three draws of it, 200 test rows (bm25: 50; of open tasks answers are written for 100). One context "
        "is the mean over eight of them, each alone, not a lucky one; of bm25 it is the one with the nearest example "
        "last, and more are orders of the same examples. Bits are as they come, without a temperature. Prompt tokens "
        "count what a prompt holds, run tokens what is left after shared prefixes are run once. Milliseconds are a "
        "rough figure: one thread, beside other work. Intervals are 95 %, bootstrapped over tasks, draws of the pool "
        "and test rows.",
        "",
        "## By number of contexts",
        "",
        *_by_number(found["means"]),
        "",
        "## What eight contexts gain over one",
        "",
        *_by_task(found),
        "",
        *_aims(found),
        "",
        "## Gradient matching",
        "",
        *_matching(found["matching"]),
        "",
        "## Geometric minus arithmetic mean",
        "",
        *_means(found["geometric"]),
        "",
        "## Tasks",
        "",
        *_tasks_table(found["screen"]),
    ]
    return "\n".join(lines) + "\n"


def _by_number(means: dict[str, Any]) -> list[str]:
    lines = [
        "| recipe | contexts | tasks | metric | bits | disagree | prompt tokens | run tokens | ms a query |",
        "| --- |" + " ---: |" * 8,
    ]
    for recipe, by_number in means.items():
        for m, c in by_number.items():
            metric, bits = c["metric"], c["bits"]
            lines.append(
                f"| {recipe} | {m} | {c['n_tasks']} | {metric['value']:.3f} ({metric['low']:.3f} to "
                f"{metric['high']:.3f}) | {bits['value']:.2f} ({bits['low']:.2f} to {bits['high']:.2f}) | "
                f"{c['disagreement']:.2f} | {c['prompt_tokens']:.0f} | {c['run_tokens']:.0f} | {c['query_ms']:.0f} |"
            )
    return lines


def _by_task(found: dict[str, Any]) -> list[str]:
    recipes = list(found["tasks"])
    tasks = list(dict.fromkeys(t for cells in found["tasks"].values() for t in cells))
    lines = [f"| task | {' | '.join(recipes)} |", "| --- |" + " --- |" * len(recipes)]
    for task in tasks:
        cells = []
        for recipe in recipes:
            cell = found["tasks"][recipe].get(task)
            cells.append("" if cell is None else f"{cell['one']:.2f} to {cell['eight']:.2f}: {_points(cell['gain'])}, "
                         f"{cell['bits_gain']['value']:+.2f} bits")  # fmt: skip
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return lines


def _points(gap: dict[str, float]) -> str:
    value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _aims(found: dict[str, Any]) -> list[str]:
    """Return for each recipe on which tasks the aim is reached, and on which it is not."""
    lines = ["The aim is +4 points and fewer bits on every task.", ""]
    for recipe, cells in found["tasks"].items():
        short = [t for t, c in cells.items() if c["gain"]["value"] < AIM]
        dearer = [t for t, c in cells.items() if c["bits_gain"]["value"] >= 0]
        n = len(cells)
        lines.append(
            f"- {recipe}: {n - len(short)} of {n} tasks gain 4 points or more"
            + (f" (not {', '.join(short)})" if short else "")
            + f"; {n - len(dearer)} of {n} take fewer bits"
            + (f" (not {', '.join(dearer)})." if dearer else ".")
        )
    return lines


def _matching(matching: dict[str, Any]) -> list[str]:
    lines = ["The aim is +10 points over the mean random draw.", ""]
    for name, gap in matching.items():
        if gap is None:
            continue
        reached = sum(value >= AIM_OF_MATCHING for value in gap["tasks"].values())
        by_task = ", ".join(f"{t.partition('/')[2]} {100 * v:+.1f}" for t, v in gap["tasks"].items())
        lines.append(
            f"- {name}: {_points(gap)} points; 10 or more on {reached} of {len(gap['tasks'])} tasks: {by_task}."
        )
    return lines


def _means(geometric: dict[str, Any]) -> list[str]:
    lines = ["| recipe | contexts | points | bits |", "| --- | ---: | ---: | ---: |"]
    for recipe, by_number in geometric.items():
        for m, gap in by_number.items():
            bits = gap["bits"]
            lines.append(
                f"| {recipe} | {m} | {_points(gap['scores'])} | {bits['value']:+.3f} ({bits['low']:+.3f} to "
                f"{bits['high']:+.3f}) |"
            )
    return lines


def _tasks_table(screen: dict[str, Any]) -> list[str]:
    lines = [
        "A task counts as above chance if 8 random demonstrations answer more of the training rows outside the pool "
        "than the most frequent output does.",
        "",
        "| task | random, 8 shots | most frequent output |",
        "| --- | ---: | ---: |",
    ]
    return lines + [f"| {t} | {c['metric']:.2f} | {c['majority']:.2f} |" for t, c in screen.items()]
