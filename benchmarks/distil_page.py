"""What the rows of the benchmark `distil` say: a table for each task, with differences from the teacher in pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rows import paired

OPENING = """\
`kshot bench distil --data DIR` measures this: Gemma-3-270M, 100 labelled examples, 200 test rows, uncalibrated. The
teacher averages eight prompts of 16 drawn demonstrations; a student learns along the stream what it says, and has no
demonstrations; "with inputs" it has 500 inputs without labels beside. The difference is from the teacher, in points of
the task's metric, with its 95 % interval over test rows. Tokens are those of a query's prompts; milliseconds are of one
thread, beside other work.

All that train take one step an example, with lr=3e-4. Of three settings of `fine-tune:batch=8` along a stream of 100
training rows of TREC (seed 5) it expected the fewest bits in the end: 1.05, after three steps 1.28, with lr=1e-3 1.29,
at .699, .699 and .678 right."""
COLUMNS = ("recipe", "inputs", "draws", "rows", "metric", "bits", "from the teacher", "tokens", "ms", "seconds to fit")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task and recipe: means over draws, and the difference from the teacher; then over tasks."""
    by_task: dict[str, dict[tuple[str, int], dict[int, Mapping[str, Any]]]] = {}
    for row in rows:
        recipes = by_task.setdefault(row["task"], {})
        recipes.setdefault((row["recipe"], row["inputs"]), {})[row["seed"]] = row
    found = [
        _summary(task, *about, draws, _pairs(draws, recipes))
        for task, recipes in by_task.items()
        for about, draws in recipes.items()
    ]
    names = dict.fromkeys(key for recipes in by_task.values() for key in recipes)
    whole = [recipes for recipes in by_task.values() if recipes.keys() == names.keys()]
    for about in names if len(whole) > 1 else ():
        draws = dict(enumerate(row for recipes in whole for row in recipes[about].values()))
        pairs = [pair for recipes in whole for pair in _pairs(recipes[about], recipes)]
        found.append(_summary(f"mean over tasks that have all recipes, {len(whole)}", *about, draws, pairs))
    return found


def _pairs(draws: Mapping[int, Any], recipes: Mapping[tuple[str, int], Mapping[int, Any]]) -> list[tuple[Any, Any]]:
    """Return the rows of a recipe beside those of the teacher, of the draws that both have; none of the teacher."""
    teacher = next((own for (recipe, _), own in recipes.items() if recipe.startswith("random")), {})
    return [(draws[s], teacher[s]) for s in sorted(draws.keys() & teacher.keys()) if draws is not teacher]


def _summary(
    task: str, recipe: str, inputs: int, draws: Mapping[int, Any], pairs: Sequence[tuple[Any, Any]]
) -> dict[str, Any]:
    gap = paired(*([row["scores"] for row in rows] for rows in zip(*pairs, strict=True))) if pairs else None
    names = ("metric", "bits_per_example", "query_tokens", "query_ms", "fit_seconds")
    means = {name: float(np.mean([row[name] for row in draws.values()])) for name in names}
    n_test = next(iter(draws.values()))["n_test"]
    about = {"task": task, "recipe": recipe, "inputs": inputs, "draws": len(draws), "n_test": n_test}
    return {**about, **means, "gap": gap}


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# A recipe in the weights: students and their teacher", "", OPENING, "",
             f"{result['done']} of {result['planned']} units are done."]  # fmt: skip
    for task in dict.fromkeys(row["task"] for row in result["summary"]):
        lines += ["", f"## {task}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [_line(row) for row in result["summary"] if row["task"] == task]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    gap = row["gap"]
    told = f"{100 * gap['difference']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})" if gap else ""
    counts = [str(row[name]) for name in ("inputs", "draws", "n_test")]
    means = [f"{row['metric']:.3f}", f"{row['bits_per_example']:.2f}", told]
    costs = [f"{row[name]:,.0f}" for name in ("query_tokens", "query_ms", "fit_seconds")]
    cells = [f"`{row['recipe']}`", *counts, *means, *costs]
    return f"| {' | '.join(cells)} |"
