"""Sets of labels that are named: how well labels are told apart, by the demonstrations and how their sets are said.

`python benchmarks/named_labels.py DIR TASK …` prints a line of JSON for each task of the folder. All is done on
training rows: of 100, in the order of each of four draws, the first are shown and the last 84 are asked about. Numbers
are areas under the ROC curve, the mean over labels, of the log-odds that a label is named next. `shuffled` says the
labels of each demonstration in a random order, where the task's order is usual. `second` adds the chance that a label
is named after the one that is most likely, which is read again.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score

from kshot.core.label_sets import indicator, named, odds_of_names, read
from kshot.core.models import ScoringModel
from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, ScoreRequest, Task
from kshot.engine.load_model import load_model
from kshot.race.stream import make_stream
from kshot.taskmodel.taskmodel import TaskModel

POOL, N_ASKED, DRAWS, SHOWN = 100, 84, (0, 1, 2, 3), (0, 4, 8, 16)


def measure(task: Task, model: TaskModel, scoring: ScoringModel, seed: int) -> dict[str, float]:
    """Return the area under the curve of each way to show demonstrations, for one draw."""
    examples = make_stream(task, limit=POOL, seed=seed).examples[:POOL]
    asked, found = examples[-N_ASKED:], dict[str, float]()
    right = indicator([e.output for e in asked], task.labels)
    for k in SHOWN:
        found[f"{k}"] = area(first := _first(model, examples[:k], asked), right)
        if k:
            found[f"{k} shuffled"] = area(_first(model, _shuffled(examples[:k], seed), asked), right)
    prompts = [model.compose(examples[:k], e) for e in asked]
    found[f"{k} second"] = area(_second(model, scoring, prompts, first), right)
    return found


def _first(model: TaskModel, shown: Sequence[Example], asked: Sequence[Example]) -> FloatArray:
    """Return log-probabilities of naming each label next, `[n_asked, n_labels]`."""
    prompts = [model.compose(shown, e) for e in asked]
    return np.array(model.score(prompts, [model.task.labels] * len(asked)), dtype=np.float64)


def _second(model: TaskModel, scoring: ScoringModel, prompts: Sequence, first: FloatArray) -> FloatArray:
    """Return log-probabilities that a label is named first, or second after the most probable one."""
    best, after = first.argmax(axis=1), tuple(f", {label}" for label in model.task.labels)
    begun = [model.begun(p, model.task.labels[i]) for p, i in zip(prompts, best, strict=True)]
    rows = np.array(scoring.score([ScoreRequest(p, after) for p in begun], ledger=model.ledger), dtype=np.float64)
    rows[np.arange(len(best)), best] = -np.inf  # it was named already
    return np.logaddexp(first, first.max(axis=1, keepdims=True) + rows)


def _shuffled(shown: Sequence[Example], seed: int) -> list[Example]:
    rng = generator(seed, "shuffled labels")
    return [
        replace(e, output=named("|".join(rng.permutation(read(e.output)))) if read(e.output) else e.output)
        for e in shown
    ]


def area(log_probs: FloatArray, right: np.ndarray) -> float:
    """Return the area under the ROC curve, the mean over labels that some rows have and some have not."""
    odds = np.array([odds_of_names(row) for row in log_probs])
    some = [i for i in range(right.shape[1]) if 0 < right[:, i].sum() < len(right)]
    return float(np.mean([roc_auc_score(right[:, i], odds[:, i]) for i in some]))


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    engine = load_model("demo")
    for name in names:
        loaded = Task.load(f"{folder}/{name}")
        draws = [measure(loaded, TaskModel.for_task(loaded, engine), engine, seed) for seed in DRAWS]
        print(json.dumps({"task": name, **{way: [round(d[way], 3) for d in draws] for way in draws[0]}}), flush=True)
