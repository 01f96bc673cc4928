"""What taking out the label prior is worth: predictions that were recorded, calibrated in several ways.

    python benchmarks/label_prior.py [FILE ...]

FILEs hold rows of benchmarks/choice.py, by default docs/results/choice.json. Read are the stream and the 40 further
training rows that the final recipe was asked about; test rows are not. Prints accuracy and bits by kind of calibration,
recipe and task, and on the further rows also by how many inputs the prior of the last prompt is the mean over. The
constants of kshot.measures.calibration were chosen by it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from kshot.core.types import Example, Prediction
from kshot.measures import calibration
from kshot.measures.calibration import calibrated
from kshot.measures.probabilities import normalised

WAYS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "temperature": {"STRENGTHS": (0.0,)},
    "batch, strength 1": {"STRENGTHS": (1.0,)},
    "batch": {},
    "batch, strengths by quarters": {"STRENGTHS": (0.0, 0.25, 0.5, 0.75, 1.0)},
    "batch, decay 0.95": {"LABEL_DECAY": 0.95},
    "batch, decay 1": {"LABEL_DECAY": 1.0},
    "batch, 1 input": {"LABEL_INPUTS": 1.0},
    "batch, 16 inputs": {"LABEL_INPUTS": 16.0},
    "batch, 2 bits": {"STRENGTH_BITS": 2.0},
    "batch, 1 input, decay 1": {"LABEL_INPUTS": 1.0, "LABEL_DECAY": 1.0},
    "batch, 8 bits": {"STRENGTH_BITS": 8.0},
}

SHOWN, N_INPUTS = 16, (0, 8, 14, 32, 78)


def main() -> None:
    """Print it."""
    rows = [row for file in sys.argv[1:] or ["docs/results/choice.json"] for row in recorded(Path(file))]
    found = {way: [compared(row, way) for row in rows] for way in WAYS}
    print(f"{len(rows)} streams, tasks: {', '.join(sorted({row['task'] for row in rows}))}\n")
    _table("all", {way: np.mean(values, axis=0) for way, values in found.items()})
    for key in ("recipe", "task"):
        for name in sorted({row[key] for row in rows}):
            mine = [row[key] == name for row in rows]
            _table(name, {way: np.mean(np.array(found[way])[mine], axis=0) for way in list(WAYS)[:4]})
    prompts = [
        row
        for row in rows
        if row["again"] and len(row["again"]["log_probs"]) == len(row["stream"]["log_probs"]) - SHOWN
    ]
    print(f"{len(prompts)} prompts for all queries, further rows, by inputs of the prior")
    for n in N_INPUTS:
        print("{:>30} {:.3f} {:.3f}".format(n, *np.mean([by_inputs(row, n) for row in prompts], axis=0)))


def recorded(file: Path) -> list[dict[str, Any]]:
    """Return the rows of tasks with a list of labels: those whose predictions all have the same candidates."""
    rows = json.loads(file.read_text("utf-8"))["rows"]
    return [row for row in rows if row["kind"] == "classification" and row["rest"]]


def compared(row: Mapping[str, Any], way: str) -> tuple[float, float, float, float]:
    """Return accuracy and bits of a stream, and those of the 40 further rows."""
    stream, rest = _predictions(row["stream"]), _predictions(row["rest"])
    if way == "none":
        return *_scored(*stream), *_scored(*rest)
    with ExitStack() as stack:
        for name, value in WAYS[way].items():
            stack.enter_context(patch.object(calibration, name, value))
        along, last = calibrated(*stream, label_prior=True)
        if row["again"]:
            last = last.asked(_predictions(row["again"])[0])
    return *_scored(along, stream[1]), *_scored([last.of(p) for p in rest[0]], rest[1])


def by_inputs(row: Mapping[str, Any], n: int) -> tuple[float, float]:
    """Return accuracy and bits of the 40 further rows with a prior over `n` inputs, on average over 20 draws of them.

    With 0 it is the prior of the stream, which earlier prompts had.
    """
    again, rest = _predictions(row["again"])[0], _predictions(row["rest"])
    _, last = calibrated(*_predictions(row["stream"]), label_prior=True)
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        how = last.asked([again[i] for i in rng.permutation(len(again))[:n]])
        found.append(_scored([how.of(p) for p in rest[0]], rest[1]))
    accuracy, bits = np.mean(found, axis=0)
    return float(accuracy), float(bits)


def _predictions(kept: Mapping[str, Any]) -> tuple[list[Prediction], list[Example]]:
    """Return recorded predictions and their examples; labels are their places."""
    rows = np.array(kept["log_probs"])
    labels = tuple(map(str, range(rows.shape[1])))
    predictions = [
        Prediction(str(i), labels, tuple(row), tuple(normalised(row)), labels[int(np.argmax(row))])
        for i, row in enumerate(rows)
    ]
    return predictions, [Example("x", labels[gold], str(i)) for i, gold in enumerate(kept["gold"])]


def _scored(predictions: Sequence[Prediction], examples: Sequence[Example]) -> tuple[float, float]:
    pairs = list(zip(predictions, examples, strict=True))
    bits = [-np.log2(p.probs[p.candidates.index(e.output)]) for p, e in pairs]
    return float(np.mean([p.answer == e.output for p, e in pairs])), float(np.mean(bits))


def _table(name: str, means: Mapping[str, np.ndarray]) -> None:
    print(f"| {name} | stream: accuracy | bits | further rows: accuracy | bits |\n|---|---|---|---|---|")
    for way, values in means.items():
        print(f"| {way} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    print()


if __name__ == "__main__":
    main()
