"""What benchmarks/new_labels.py has measured: numbers by way, and the page docs/results/new-labels.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kshot.core.types import Example, Prediction
from kshot.measures.calibration import calibrated
from kshot.measures.probabilities import mixed, normalised

BASE, TRUST = "zero-shot", 2.0
Rows = list[Prediction]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each way the accuracy over all test rows, those with labels seen and the others, and bits.

    Ways are the recipes as they are, calibrated (`batch`), and `new-labels` of each of them with zero-shot, where draws
    of both are there.
    """
    found: dict[str, list[dict[str, float]]] = {}
    base = {row["seed"]: row for row in rows if row["recipe"] == BASE}
    for row in rows:
        stream, examples = _read(row, "stream")
        tested, test = _read(row, "test")
        known = [e.output for e in examples]
        _, last = calibrated(stream, examples, label_prior=True)
        ways = {"": tested, ", batch": [last.of(p) for p in tested]}
        other = base.get(row["seed"])
        if other and row["recipe"] != BASE:
            others = _read(other, "test")[0]
            prior = calibrated(*_read(other, "stream"), label_prior=True)[1]
            ways |= {
                " new-labels": _new_labels(tested, others, known),
                " new-labels, batch": _new_labels(ways[", batch"], [prior.of(p) for p in others], known),
            }
        for way, predictions in ways.items():
            found.setdefault(row["recipe"] + way, []).append(_scores(predictions, test, set(known)))
    return [
        {"way": way, "draws": len(some), **{key: float(np.mean([s[key] for s in some])) for key in some[0]}}
        for way, some in found.items()
    ]


def page(result: Mapping[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# More labels than examples",
        "",
        "`python benchmarks/new_labels.py --data DIR`: banking77, 30 examples of about 27 of its 77 labels, "
        f"Gemma-3-270M, {result['n_test']} test rows; {result['done']} of {result['planned']} units are done. "
        "Shares of the rows that are answered right: of all, of those whose label has an example, and of the others. "
        "`over=seen` learns an answer against the labels seen so far, token by token, "
        "[`hard-negatives`](../methods/hard-negatives.md) as a whole; `batch` takes out the label prior; `new-labels` "
        "answers with the recipe among the labels seen and with zero-shot among the others.",
        "",
        "| way | draws | all | seen | unseen | bits |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["summary"]:
        numbers = " | ".join(f"{row[key]:.2f}" for key in ("all", "seen", "unseen", "bits"))
        lines.append(f"| {row['way']} | {row['draws']} | {numbers} |")
    return "\n".join(lines) + "\n"


def _read(row: Mapping[str, Any], part: str) -> tuple[Rows, list[Example]]:
    """Return the predictions of a part of a row as they were, and their examples."""
    labels, kept = tuple(row["labels"]), row[part]
    logs = np.array(kept["log_probs"])
    predictions = [
        Prediction(str(i), labels, tuple(log), tuple(normalised(log)), labels[int(np.argmax(log))])
        for i, log in enumerate(logs)
    ]
    return predictions, [Example("x", labels[gold], str(i)) for i, gold in enumerate(kept["gold"])]


def _new_labels(first: Rows, second: Rows, known: Sequence[str]) -> Rows:
    """Return what the combiner `new-labels` says (`kshot.methods.combiners.new_labels`)."""
    counts: Counter[str] = Counter()
    once, expected, came = 0, TRUST, TRUST
    for n, label in enumerate(known):
        if n >= len(known) // 2:
            expected += once / (n + 1)
            came += not counts[label]
        counts[label] += 1
        once += {1: 1, 2: -1}.get(counts[label], 0)
    chance = min(1.0, once / (len(known) + 1) * came / expected)
    found = []
    for one, other in zip(first, second, strict=True):
        seen, probabilities = np.isin(one.candidates, known), np.zeros(len(one.candidates))
        for member, part, share in ((one, seen, 1 - chance), (other, ~seen, chance)):
            own = np.where(part, member.probs, 0.0)
            probabilities += share * own / own.sum()
        probabilities = mixed(probabilities)
        answer = one.candidates[int(np.argmax(probabilities))]
        found.append(Prediction(one.example_id, one.candidates, (), tuple(probabilities), answer))
    return found


def _scores(predictions: Rows, examples: Sequence[Example], known: set[str]) -> dict[str, float]:
    right = np.array([p.answer == e.output for p, e in zip(predictions, examples, strict=True)])
    seen = np.array([e.output in known for e in examples])
    bits = [-np.log2(p.probs[p.candidates.index(e.output)]) for p, e in zip(predictions, examples, strict=True)]
    return {
        "all": right.mean(),
        "seen": right[seen].mean(),
        "unseen": right[~seen].mean(),
        "bits": float(np.mean(bits)),
    }
