"""What the benchmark of the choice found: regret of each rule, cost and loss of the race, as numbers and as a page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.race.halving import dropped, slices
from kshot.race.ranking import SHARPNESS, Evidence, smoothed
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe

SPLITS = 20
Rows = Mapping[str, Mapping[str, Any]]  # of one task and seed, by recipe
RULES = (
    "kshot",
    "kshot, all recipes to the end",
    "kshot, without the second look",
    "kshot, right and wrong not smoothed",
    "mean over the stream",
    "bits over the stream",
    "80/20 split",
    "5-fold cross-validation at equal cost",
    "5-fold cross-validation",
)


def _recipe(name: str) -> Recipe:
    return parse_recipe(name, shots=16)


def _is_open(row: Mapping[str, Any]) -> bool:
    return row["kind"] not in ("classification", "multiple_choice")


def _worth(row: Mapping[str, Any], some: Mapping[str, Any], *, sharpness: float = SHARPNESS) -> FloatArray:
    """Return what rows are worth to the choice, as `kshot.race.ranking.evidence` does."""
    if _is_open(row):
        return -np.array(some["bits"])
    if sharpness == np.inf:
        return np.array(some["scores"])
    return smoothed(np.array(some["margins"]), float(np.std(row["stream"]["margins"])), sharpness)


def _evidence(name: str, row: Mapping[str, Any], *, look: bool = True, sharpness: float = SHARPNESS) -> Evidence:
    stream = _worth(row, row["stream"], sharpness=sharpness)
    recipe, final = _recipe(name), {}
    if look and row["again"]:
        final = dict(zip(row["again"]["positions"], _worth(row, row["again"], sharpness=sharpness), strict=True))
    if not recipe.learns or (recipe.per_query and final):
        final = dict(enumerate(stream)) | final
    return Evidence(stream, final)


def race(rows: Rows) -> tuple[list[str], float, float]:
    """Return who comes to the end of a race over the recorded streams, and the tokens with it and without it."""
    n = next(iter(rows.values()))["n"]
    racing, spent = list(rows), 0.0
    for start, stop in slices(n):
        spent += sum(sum(rows[name]["tokens"][start:stop]) for name in racing)
        if stop < n:
            bits = {name: rows[name]["stream"]["bits"][:stop] for name in racing}
            out = dropped(bits, n, free={name for name in racing if not sum(rows[name]["tokens"])})
            racing = [name for name in racing if name not in out]
    looks = {name: row["again"]["tokens"] if row["again"] else 0 for name, row in rows.items()}
    whole = sum(sum(row["tokens"]) for row in rows.values()) + sum(looks.values())
    return racing, spent + sum(looks[name] for name in racing), whole


def _folds(row: Mapping[str, Any], most_tokens: float) -> list[Mapping[str, Any]]:
    """Return the folds that can be paid for, the last (an 80/20 split) first; at least that one."""
    found, spent = [], 0.0
    for fold in reversed(row["folds"]):
        spent += fold["tokens"]
        if found and spent > most_tokens:
            break
        found.append(fold)
    return found


def _of_folds(rows: Rows, most: Callable[[Mapping[str, Any]], float]) -> dict[str, float]:
    return {
        name: float(np.mean(np.concatenate([_worth(row, fold, sharpness=np.inf) for fold in _folds(row, most(row))])))
        for name, row in rows.items()
    }


def _price(row: Mapping[str, Any]) -> float:
    return sum(row["tokens"]) + (row["again"]["tokens"] if row["again"] else 0)


def chosen(rows: Rows, rule: str) -> str:
    """Return what a rule chooses; ties go to the fewer bits."""
    if rule == "kshot":
        racing, *_ = race(rows)
        return chosen({name: rows[name] for name in racing}, "kshot, all recipes to the end")
    if rule.startswith("kshot"):
        sharpness = np.inf if "not smoothed" in rule else SHARPNESS
        values = _expected(rows, look="without the second" not in rule, sharpness=sharpness)
    elif rule.startswith("bits"):
        values = {name: -float(np.mean(row["stream"]["bits"])) for name, row in rows.items()}
    elif rule.startswith("mean"):
        values = {name: float(_worth(row, row["stream"], sharpness=np.inf).mean()) for name, row in rows.items()}
    else:
        most = {"80/20 split": lambda row: 0.0, "5-fold cross-validation": lambda row: np.inf}
        values = _of_folds(rows, most.get(rule, _price))
    return max(rows, key=lambda name: (round(values[name], 9), -float(np.mean(rows[name]["stream"]["bits"]))))


def regret(rows: Rows, name: str) -> float:
    """Return by how many points a recipe is behind the best in hindsight, cross-fitted over halves of the test rows."""
    scores = {other: np.array(row["test"]["scores"], dtype=float) for other, row in rows.items()}
    n, rng, found = len(scores[name]), generator(0, "regret"), []
    for _ in range(SPLITS):
        order = rng.permutation(n)
        for one, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            best = max(scores, key=lambda r: scores[r][one].mean())
            found.append(scores[best][other].mean() - scores[name][other].mean())
    return 100 * float(np.mean(found))


def by_task(rows: Sequence[Mapping[str, Any]], *, trained: bool) -> dict[str, Rows]:
    """Return the rows of each task and seed, with or without the recipes that train; only those that are complete."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(f"{row['task']} (seed {row['seed']})", {})[row["recipe"]] = row
    done = {}
    for task, some in found.items():
        has = any(_recipe(name).trains for name in some)
        if {"bm25", "dense", "random"} <= some.keys() and (has or not trained):
            done[task] = {name: row for name, row in some.items() if trained or not _recipe(name).trains}
    return done


def _mean_with_interval(values: Sequence[float]) -> list[float]:
    """Return the mean over tasks and its 95 % bootstrap interval over tasks."""
    rng, y = generator(0, "tasks"), np.array(values)
    draws = [y[rng.integers(len(y), size=len(y))].mean() for _ in range(2000)]
    return [float(y.mean()), *map(float, np.quantile(draws, [0.025, 0.975]))]


def errors(tasks: Mapping[str, Rows]) -> dict[str, float]:
    """Return by how many points rules err about other training rows, on which their constants were chosen.

    Of tasks with candidates: the root of the mean square of (value - mean score), each around its mean over recipes.
    """
    rules: dict[str, Callable[[Rows], Mapping[str, float]]] = {
        "mean over the stream": lambda rows: {n: float(np.mean(r["stream"]["scores"])) for n, r in rows.items()},
        "5-fold cross-validation": lambda rows: _of_folds(rows, lambda row: np.inf),
        "without the second look": lambda rows: _expected(rows, look=False),
        "with it, not smoothed": lambda rows: _expected(rows, sharpness=np.inf),
        **{f"with it, Phi({k:g} m / s)": lambda rows, k=k: _expected(rows, sharpness=k) for k in (2.0, 5.0, 10.0)},
    }
    found: dict[str, list[float]] = {rule: [] for rule in rules}
    for rows in tasks.values():
        rest = {n: np.mean(r["rest"]["scores"]) for n, r in rows.items() if r["rest"] and not _is_open(r)}
        for rule, values in rules.items() if rest else ():
            gaps = np.array([values(rows)[name] - rest[name] for name in rest])
            found[rule].append(float(np.var(gaps)))
    return {rule: 100 * float(np.mean(squares)) ** 0.5 for rule, squares in found.items() if squares}


def _expected(rows: Rows, **how: Any) -> dict[str, float]:
    return {name: _evidence(name, row, **how).expected(row["n"]) for name, row in rows.items()}


def _summary(tasks: Mapping[str, Rows]) -> dict[str, Any]:
    regrets = {rule: [regret(rows, chosen(rows, rule)) for rows in tasks.values()] for rule in RULES}
    races = {task: race(rows) for task, rows in tasks.items()}
    losses, lost = [], []
    for task, rows in tasks.items():
        test = {name: 100 * float(np.mean(row["test"]["scores"])) for name, row in rows.items()}
        losses.append(test[chosen(rows, "kshot, all recipes to the end")] - test[chosen(rows, "kshot")])
        best, second = sorted(test, key=lambda name: -test[name])[:2]
        if test[best] - test[second] >= 5:
            lost.append(best not in races[task][0])
    whole = sum(w for *_, w in races.values())
    cost = {
        "kshot": sum(spent for _, spent, _ in races.values()) / whole,
        "mean over the stream": sum(sum(r["tokens"]) for rows in tasks.values() for r in rows.values()) / whole,
        "80/20 split": _folds_cost(tasks, lambda row: 0.0) / whole,
        "5-fold cross-validation at equal cost": _folds_cost(tasks, _price) / whole,
        "5-fold cross-validation": _folds_cost(tasks, lambda row: np.inf) / whole,
    }
    return {
        "tasks": len(tasks),
        "regret_points": {rule: _mean_with_interval(values) for rule, values in regrets.items()},
        "by_task": {task: {rule: regrets[rule][i] for rule in RULES} for i, task in enumerate(tasks)},
        "chosen": {task: {rule: chosen(rows, rule) for rule in RULES} for task, rows in tasks.items()},
        "errors_on_other_training_rows_points": errors(tasks),
        "race": {
            "cost": cost["kshot"],
            "loss_points": _mean_with_interval(losses),
            "clear_best_dropped": f"{sum(lost)} of {len(lost)}",
        },
        "cost_relative_to_all_to_the_end": cost,
    }


def _folds_cost(tasks: Mapping[str, Rows], most: Callable[[Mapping[str, Any]], float]) -> float:
    every = [row for rows in tasks.values() for row in rows.values()]
    return sum(fold["tokens"] for row in every for fold in _folds(row, most(row)))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return regrets, race and costs, without and with the recipes that train, over the tasks that are complete."""
    found = {}
    for name, trained in (("prompts and baselines", False), ("with recipes that train", True)):
        tasks = by_task(rows, trained=trained)
        if tasks:
            found[name] = _summary(tasks)
    return found


def page(result: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# How good is the choice?",
        "",
        "Made by `kshot bench choice --data DIR`: Gemma-3-270M, streams of 100 training examples, 16 shots, "
        f"{result['done']} of {result['planned']} units of work done. The regret of a choice is how many points of "
        "the metric it lacks against the best recipe in hindsight, on test rows that no rule has seen: the best is "
        f"picked on one half of them and both are compared on the other, over {SPLITS} random halves and both ways "
        "round. The race and all rules are replayed on the recorded predictions by the code that `kshot adapt` runs.",
        "",
    ]
    for name, found in result["summary"].items():
        cost = found["cost_relative_to_all_to_the_end"]
        lines += [
            f"## {name.capitalize()}: {found['tasks']} streams",
            "",
            "| rule | regret, points | cost |",
            "|---|---|---|",
        ]
        for rule, (mean, low, high) in found["regret_points"].items():
            price = f"{cost[rule]:.2f}" if rule in cost else ""
            lines.append(f"| {rule} | {mean:+.1f} ({low:+.1f} to {high:+.1f}) | {price} |")
        mean, low, high = found["race"]["loss_points"]
        lines += [
            "",
            "Intervals are over tasks (bootstrap). Cost is in tokens, relative to running all recipes to the end with "
            "their second looks.",
            "",
            f"The race costs {found['race']['cost']:.2f} of running all to the end, and loses {mean:+.2f} points by it "
            f"({low:+.2f} to {high:+.2f}). Of recipes that are best on the test rows by 5 points or more, "
            f"{found['race']['clear_best_dropped']} were dropped.",
            "",
            "| stream | chosen | regret | 80/20 split | 5-fold at equal cost | 5-fold |",
            "|---|---|---|---|---|---|",
        ]
        for task, regrets in found["by_task"].items():
            others = [
                regrets[r] for r in ("80/20 split", "5-fold cross-validation at equal cost", "5-fold cross-validation")
            ]
            lines.append(
                f"| {task} | {found['chosen'][task]['kshot']} | {regrets['kshot']:+.1f} | "
                + " | ".join(f"{value:+.1f}" for value in others) + " |"
            )  # fmt: skip
        lines += [
            "",
            "Errors on 40 other training rows (labels and choices; a part of each is noise of these rows):",
            "",
        ]
        lines += [
            f"- {rule}: {value:.1f} points" for rule, value in found["errors_on_other_training_rows_points"].items()
        ]
        lines.append("")
    return "\n".join(lines)
