"""What the rows of the benchmark `optimum` say: the regret of each selector, by class, and what a model makes of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BEST, RANDOM = "best set", "random"
OPENING = """\
`kshot bench optimum` measures this: rules on rows of digits (`builtin:boolean`, 6 digits) and linear functions with
whole weights (`builtin:prism`, 4 numbers), of which the best demonstrations are known: points after which a single
function of the class is possible. They are among 32 training rows; a selector chooses as many as they are. Regret is
measured with the best learner there is, the posterior over the class, on all other inputs: bits a test row above those
after the best set, and points of accuracy below it (docs/studies/boolean.md); 0 is the best there is. What selectors
make of chance is `random`; "from random" is the difference from it in bits, in pairs over classes and draws, with its
standard error. "found" is the share of the best set that was chosen, and "s" seconds a task, beside other work. Those
that cost minutes are measured on fewer draws and classes, with less work than usual, as their settings say.

`all-past` shows all 32 rows, whatever it is asked. Selectors that ask a language model ask the tiny one here, of random
weights: their row tells what the method does with a model that knows nothing of the task."""
ANSWERS_OPENING = """\
Selectors that ask a model ask this one here (demo is Gemma-3-270M), and it answers the test rows after what was chosen:
its own accuracy stands beside the posterior's regret with the same demonstrations. The best set is best for somebody
who knows the class; whether it is for a language model is what the columns "right" say. "same" is the share of test
rows that have the answer given most often: near 1 the model says the same whatever it is asked, and what is right is
the share of test rows with that answer."""


def short(task: str) -> str:
    """Return what a table calls a class."""
    return task.replace("boolean(of=", "").replace("prism(of=", "prism ").rstrip(")")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each layer and selector, with means over seeds by class; `why` where it cannot be used."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["layer"], row["selector"]), []).append(row)
    return [_summed(layer, selector, some, found.get((layer, RANDOM), [])) for (layer, selector), some in found.items()]


def _summed(
    layer: str, selector: str, rows: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    about = {"layer": layer, "selector": selector, "model": rows[0]["model"]}
    if "why" in rows[0]:
        return {**about, "why": rows[0]["why"]}
    names = ["regret_bits", "regret_accuracy", "found", "n_shown", "k", "model_accuracy", "seconds"]
    names += ["same_answer"] if layer == "answers" else []
    tasks = {
        task: {name: float(np.mean([r[name] for r in rows if r["task"] == task])) for name in names}
        for task in dict.fromkeys(r["task"] for r in rows)
    }
    by_chance = {(r["task"], r["seed"]): r["regret_bits"] for r in drawn}
    gaps = [r["regret_bits"] - by_chance[r["task"], r["seed"]] for r in rows if (r["task"], r["seed"]) in by_chance]
    return {
        **about,
        "draws": len({r["seed"] for r in rows}),
        "tasks": tasks,
        **{name: float(np.mean([one[name] for one in tasks.values()])) for name in names},
        "from_random": float(np.mean(gaps)) if gaps else None,
        "error": float(np.std(gaps, ddof=1) / np.sqrt(len(gaps))) if len(gaps) > 1 else None,
    }


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# Selectors against the best demonstrations there are", "", OPENING, "",
             f"{result['done']} of {result['planned']} units are done."]  # fmt: skip
    choice = [row for row in result["summary"] if row["layer"] == "choice" and "why" not in row]
    if choice:
        choice.sort(key=lambda row: row["from_random"] or 0.0)  # some are measured on few classes alone
        tasks = list(max((row["tasks"] for row in choice), key=len))
        heads = ["selector", "draws", *map(short, tasks), "mean", "from random", "points lost", "found", "s"]
        lines += ["", "## Regret in bits a test row", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        lines += [_choice_line(row, tasks) for row in choice]
        sizes_of = max((row["tasks"] for row in choice), key=len)
        sizes = ", ".join(f"{short(t)} {sizes_of[t]['k']:.1f}" for t in tasks)
        lines += ["", f"Demonstrations in the best set, the mean over draws: {sizes}."]
    if without := [row for row in result["summary"] if "why" in row]:
        lines += ["", "Not measured:", "", *(f"- `{row['selector']}`: {row['why']}" for row in without)]
    answers = [row for row in result["summary"] if row["layer"] == "answers" and "why" not in row]
    if answers:
        tasks = list(answers[0]["tasks"])
        told = {"regret": "regret_bits", "right": "model_accuracy", "same": "same_answer"}
        heads = ["selector", "draws", *(f"{short(t)}: {name}" for t in tasks for name in told)]
        lines += ["", f"## Answers of the model {answers[0]['model']}", "", ANSWERS_OPENING, ""]
        lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in answers:
            cells = [f"{row['tasks'][t][key]:.2f}" for t in tasks for key in told.values()]
            lines.append(_line([f"`{row['selector']}`", str(row["draws"]), *cells]))
    return "\n".join(lines) + "\n"


def _choice_line(row: Mapping[str, Any], tasks: Sequence[str]) -> str:
    bits = [f"{row['tasks'][task]['regret_bits']:.2f}" if task in row["tasks"] else "" for task in tasks]
    mean = f"{row['regret_bits']:.2f}" if len(row["tasks"]) == len(tasks) else ""
    ends = [mean, "", f"{100 * row['regret_accuracy']:.1f}", f"{row['found']:.2f}"]
    if row["error"] is not None:
        ends[1] = f"{row['from_random']:+.2f} ± {row['error']:.2f}"
    return _line([f"`{row['selector']}`", str(row["draws"]), *bits, *ends, f"{row['seconds']:.1f}"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
