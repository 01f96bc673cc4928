"""What the rows of the benchmark `context-use` say: a table for each task, and differences from plain fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kshot.core.seeding import generator

N_BOOTSTRAP, PLAIN = 2000, "fine-tune"
OPENING = """\
`kshot bench context-use --data DIR` measures this: 100 training rows, uncalibrated, one setting for all that train
(lr=3e-4, one step of training a row), on test rows whose passage contradicts what is known. Each is asked as usual,
with the intent to answer from memory, and closed-book, without its passage. "Passage" is the share of answers that are
the passage's, "memory" of those that are `memory_answer`; "pair" is right as usual and from memory; "closed-book" is
the share of answers from memory without the passage. `fine-tune` reads the passage before the question; the paper's
plain fine-tuning, without passages, is `cings:mode=no_context`. `intent:ask=plain` is asked without its sentence, and
so is the same with `steerer=knob`, for which the component that is found in the trained model is set. Of the two
memotrap tasks the passage is what the input demands, cut off before its question. The difference is from `fine-tune`,
in points of "passage", with its 95 % interval over test rows and draws in pairs."""
COLUMNS = ("recipe", "model", "draws", "rows", "passage", "memory", "pair", "closed-book", "from fine-tune")
SHARES = ("from_passage", "from_memory", "pair", "closed_book")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task, model and recipe: means over draws, and the difference from plain fine-tuning."""
    found: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["task"], row["model"], row["recipe"]), {})[row["seed"]] = row
    result = []
    for (task, model, recipe), draws in found.items():
        plain = next((d for (t, m, r), d in found.items() if (t, m) == (task, model) and _about(r) == PLAIN), {})
        shared = sorted(draws.keys() & plain.keys())
        gap = _difference([draws[s] for s in shared], [plain[s] for s in shared]) if _about(recipe) != PLAIN else None
        means = {name: _mean([row[name] for row in draws.values()]) for name in SHARES}
        about = {"task": task, "model": model, "recipe": recipe, "draws": len(draws)}
        result.append({**about, "n_test": next(iter(draws.values()))["n"], **means, "gap": gap})
    return result


def _about(recipe: str) -> str:
    return recipe.partition(":")[0]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    if not ours:
        return None
    rng = generator(0, "context-use")
    gaps = [
        np.array(
            [(a == "passage") - (b == "passage") for a, b in zip(x["sources"], y["sources"], strict=False)]
        )  # one may have fewer
        for x, y in zip(ours, theirs, strict=True)
    ]
    means = []
    for _ in range(N_BOOTSTRAP):
        some = [gaps[i] for i in rng.integers(len(gaps), size=len(gaps))]
        means.append(np.mean([g[rng.integers(len(g), size=len(g))].mean() for g in some]))
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": float(np.mean([g.mean() for g in gaps])), "low": float(low), "high": float(high)}


def page(result: Mapping[str, Any]) -> str:
    """Return the page of a result."""
    lines = ["# Answers from the passage or from memory", "", OPENING, "",
             f"{result['done']} of {result['planned']} units are done."]  # fmt: skip
    for task in dict.fromkeys(row["task"] for row in result["summary"]):
        lines += ["", f"## {task}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [_line(row) for row in result["summary"] if row["task"] == task]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    shares = ["" if row[name] is None else f"{row[name]:.3f}" for name in SHARES]
    gap = row["gap"]
    told = f"{100 * gap['difference']:+.1f} ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})" if gap else ""
    cells = [f"`{row['recipe']}`", row["model"], str(row["draws"]), str(row["n_test"]), *shares, told]
    return f"| {' | '.join(cells)} |"
