"""What the rows of the benchmark `spectrum` say: divergences from known odds, and the gain of linked lessons."""

from typing import Any

import numpy as np
from rows import difference_line, paired

BAR = 0.5  # the divergence after tuning, as a share of the base model's


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of each way of training, over seeds, and the paired gains of linked lessons."""
    found: dict[str, Any] = {"urns": {}, "linked": {}}
    urns = [row for row in rows if row["layer"] == "urns"]
    for method in dict.fromkeys(row["method"] for row in urns):
        some = [row for row in urns if row["method"] == method]
        found["urns"][method] = {
            "seeds": len(some),
            "divergence_bits": _mean([row["divergence_bits"] for row in some]),
            "uniform_bits": _mean([row["uniform_bits"] for row in some]),
            "first_bits": _mean([row["steerability_bits"][0] for row in some]),
            "last_bits": _mean([row["steerability_bits"][-1] for row in some]),
            **{key: _mean([row["coverage"][key] for row in some]) for key in ("valid", "unique", "unique_valid")},
        }
    by_unit = {(r["method"], r["seed"], r["task"], r["k"]): r["scores"] for r in rows if r["layer"] == "linked"}
    for k in sorted({k for *_, k in by_unit}):
        both = [key for key in by_unit if key[0] == "linked" and key[3] == k and ("base", *key[1:]) in by_unit]
        pairs = [(by_unit[key], by_unit["base", *key[1:]]) for key in both]
        if pairs:
            ours, theirs = zip(*pairs, strict=True)
            by_task = {task: [key for key in both if key[2] == task] for task in sorted({key[2] for key in both})}
            table = {
                task: [_mean([by_unit[method, *key[1:]] for key in keys]) for method in ("base", "linked")]
                for task, keys in by_task.items()
            }
            found["linked"][f"k={k}"] = {"tasks": table, "gain": paired(ours, theirs)}
    return found


def _mean(values: list[Any]) -> float:
    return float(np.mean(values))


def page(result: dict[str, Any]) -> str:
    """Return docs/results/spectrum.md."""
    found = result["summary"]
    said = [
        "# Odds that are told, and demonstrations that count",
        "",
        "Made by `kshot bench spectrum --data DIR` (Gemma-3-270M, CPU, fp32); rows are in spectrum.json. "
        f"{result['done']} of {result['planned']} units of the plan are done.",
        "",
        "## spectrum",
        "",
        "Adapters are trained on made-up urns. Divergence: Jensen-Shannon, bits, between the model's odds of the "
        "colours of held-out urns, told what they hold, and the right ones; beside it that of uniform odds. "
        "Bits: of what held-out people say, after no sample and after 8. Of 100 numbers drawn from a range: valid, "
        "unique, both.",
        "",
        "| learnt | seeds | divergence | uniform | bits, 0 shown | bits, 8 shown | valid | unique | unique and valid |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for method, row in found["urns"].items():
        numbers = [f"{row[key]:.4f}" for key in ("divergence_bits", "uniform_bits")]
        numbers += [f"{row[key]:.2f}" for key in ("first_bits", "last_bits", "valid", "unique")]
        said.append(f"| {method} | {row['seeds']} | {' | '.join(numbers)} | {row['unique_valid']:.0f} |")
    if {"base", "outputs"} <= found["urns"].keys():
        share = found["urns"]["outputs"]["divergence_bits"] / found["urns"]["base"]["divergence_bits"]
        said += ["", f"- outputs / base: {share:.2f} of the divergence (the bar is {BAR:.2f})"]
    said += [
        "",
        "## linked",
        "",
        "Adapters are trained on lessons with meaningless labels, made of three other tasks and of invented classes. "
        "Accuracy on tasks that were not trained on, with their real labels, after k demonstrations drawn for each "
        "query.",
        "",
    ]
    for k, some in found["linked"].items():
        said += [f"| task, {k} | base | linked |", "| --- | ---: | ---: |"]
        said += [f"| {task} | {base:.2f} | {ours:.2f} |" for task, (base, ours) in some["tasks"].items()]
        said += ["", difference_line("linked", "base", some["gain"]), ""]
    if not found["linked"]:
        said += ["Not measured yet.", ""]
    return "\n".join(said).rstrip() + "\n"
