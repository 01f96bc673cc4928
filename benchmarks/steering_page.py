"""What the rows of the benchmark `steering` say: tables, paired differences, a figure of similarity and transfer."""

from pathlib import Path
from typing import Any

import numpy as np
from rows import difference_line, paired
from scipy.stats import spearmanr

ICL = "random:fresh=true,k=10"
STEERERS = ("icv", "function-vector", "soft-injection")
METHODS = ("zero-shot", ICL, *STEERERS)


def control(name: str) -> str:
    """Return the name of a steerer's control."""
    return f"random-direction:of={name}"


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each seed and kind of task, means and paired differences; and what transfers."""
    found: dict[str, Any] = {}
    measured = [r for r in rows if "recipe" in r]
    for seed in sorted({r["seed"] for r in measured}):
        for kind in ("functions", "classification"):
            cells = {(r["task"], r["recipe"]): r for r in measured if r["seed"] == seed and r["task"].startswith(kind)}
            tasks = sorted({task for task, _ in cells})
            if not tasks:
                continue
            names = [*METHODS, *map(control, STEERERS)]
            means = {
                name: {
                    key: float(np.mean([cells[t, name][key] for t in tasks]))
                    for key in ("metric", "bits_per_example", "query_tokens", "query_ms")
                }
                for name in names
            }
            pairs = [("soft-injection", ICL), ("soft-injection", "zero-shot")]
            pairs += [(s, other) for s in STEERERS for other in ("zero-shot", control(s))]
            gaps = [
                {"ours": a, "other": b, **paired(*([cells[t, name]["scores"] for t in tasks] for name in (a, b)))}
                for a, b in dict.fromkeys(pairs)
            ]
            found[f"{kind}, seed {seed}"] = {
                "tasks": {t: {name: cells[t, name]["metric"] for name in names} for t in tasks},
                "mean": means,
                "differences": gaps,
            }
    transfer = matrices(rows)
    if transfer:
        similarity, gains = transfer["similarity"], transfer["gain"]
        apart = ~np.eye(len(gains), dtype=bool)
        nearest = np.where(apart, similarity, -np.inf).argmax(axis=1)
        at = np.arange(len(gains))
        found["transfer"] = {
            "tasks": transfer["tasks"],
            "spearman": float(spearmanr(similarity[apart], gains[apart]).statistic),
            "own_gain_bits": float(np.diag(gains).mean()),
            "nearest_gain_bits": float(gains[at, nearest].mean()),
            "other_gain_bits": float(gains[apart].mean()),
            "helped_by_nearest": float((gains[at, nearest] > 0).mean()),
        }
    return found


def matrices(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return similarity of task embeddings and gains in bits `[target, source]`, of the tasks that have both."""
    embedded = embeddings(rows)
    bits = {(r["task"], r["source"]): r["bits_per_example"] for r in rows if r["layer"] == "3-transfer"}
    tasks = [t for t in embedded if (t, "none") in bits]
    if len(tasks) < 3:
        return {}
    gains = np.array([[bits[t, "none"] - bits[t, source] for source in tasks] for t in tasks])
    return {"tasks": tasks, "similarity": cosines(embedded)[np.ix_(*[[list(embedded).index(t) for t in tasks]] * 2)],
            "gain": gains}  # fmt: skip


def embeddings(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the embedding of each function task, projected, with seed 0."""
    found = {
        r["task"]: np.array(r["embedding"])
        for r in rows
        if "embedding" in r and r["task"].startswith("functions") and r.get("seed", 0) == 0
    }
    return dict(sorted(found.items()))


def cosines(embedded: dict[str, np.ndarray]) -> np.ndarray:
    """Return the cosines between embeddings, from which their mean over tasks is taken."""
    table = np.array(list(embedded.values()))
    table = table - table.mean(axis=0)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    return table @ table.T


def page(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Into the activations",
        "",
        "Made by `kshot bench steering --data DIR` (Gemma-3-270M, CPU, fp32); rows are in steering.json. "
        f"{result['done']} of {result['planned']} units of the plan are done.",
        "",
        "100 training examples, at most 100 test rows a task; function tasks are generated and matched exactly. All "
        "prompts have the task's instruction. `10-shot` draws other demonstrations for each query. `control` replaces "
        "the vectors of the steerer before it by random ones of equal norm. Strength, layer and gates are chosen on "
        "training examples. Tokens are those of a query's prompt; milliseconds are of one thread beside another "
        "process, generated answers included.",
    ]
    for name, found in result["summary"].items():
        if name == "transfer":
            continue
        lines += ["", f"## {name}", "", *_table(found), ""]
        lines += [difference_line(g["ours"], g["other"].replace(ICL, "10-shot"), g) for g in found["differences"]]
    transfer = result["summary"].get("transfer")
    if transfer:
        lines += [
            "",
            "## From task to task",
            "",
            "![Similarity of task embeddings, and what each task's soft injection does to another task](steering.png)",
            "",
            f"On the {len(transfer['tasks'])} tasks that have both, bits saved against zero-shot, on 24 test rows: "
            f"{transfer['own_gain_bits']:.2f} under a task's own soft injection, "
            f"{transfer['nearest_gain_bits']:.2f} under that of the most similar other task "
            f"({100 * transfer['helped_by_nearest']:.0f} % of the tasks are helped by it), "
            f"{transfer['other_gain_bits']:.2f} under another task's on average. Spearman of similarity and bits saved "
            f"over all pairs: {transfer['spearman']:.2f}.",
        ]
    return "\n".join(lines) + "\n"


def _table(found: dict[str, Any]) -> list[str]:
    names = ["zero-shot", ICL]
    for steerer in STEERERS:
        names += [steerer, control(steerer)]
    heads = ["control" if n.startswith("random-d") else n.replace(ICL, "10-shot") for n in names]
    lines = [f"| task | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(names)]
    for task, cells in found["tasks"].items():
        lines.append(f"| {task.partition('/')[2]} | {' | '.join(f'{cells[n]:.2f}' for n in names)} |")
    for label, key, how in (
        ("**mean**", "metric", "**{:.3f}**"),
        ("bits per example", "bits_per_example", "{:.2f}"),
        ("tokens per query", "query_tokens", "{:.0f}"),
        ("ms per query", "query_ms", "{:.0f}"),
    ):
        lines.append(f"| {label} | {' | '.join(how.format(found['mean'][n][key]) for n in names)} |")
    return lines


def figure(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the similarity of all task embeddings, and the gains of transfer."""
    from matplotlib.figure import Figure

    embedded = embeddings(rows)
    if len(embedded) < 3:
        return
    transfer = matrices(rows)
    drawn = Figure(figsize=(15, 7.6), layout="constrained")
    left, right = drawn.subplots(1, 2)
    panels = [
        (left, list(embedded), cosines(embedded), "cosine of task embeddings (mean taken off; 256 projections)", 1.0)
    ]
    if transfer:
        gains = np.clip(transfer["gain"], -6, 6)
        panels.append(
            (right, transfer["tasks"], gains, "bits saved against zero-shot (rows: task, columns: source)", 6.0)
        )
    for axes, tasks, values, title, most in panels:
        shown = axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most)
        names = [t.partition("/")[2] for t in tasks]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_title(title, fontsize=10)
        drawn.colorbar(shown, ax=axes, shrink=0.7)
    drawn.savefig(file, dpi=110, metadata={"Software": None})
