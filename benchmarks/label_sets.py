"""Sets of labels: what a race chooses and single recipes, beside one-vs-rest logistic regression on embeddings.

Run by `kshot bench label-sets --data DIR` in the repository. A unit of work (one race on one task, with one draw of the
training set) is done in a process of its own and kept under kshot-runs/bench-labels, so the same command goes on where
it stopped; all that is there goes into docs/results/labels.json and docs/results/labels.md.
"""

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

import numpy as np
import torch
from label_sets_page import page, summary
from rows import RecipeUnit, Results, measure_one

from kshot.core.label_sets import having, indicator
from kshot.core.types import Task
from kshot.encoders.encoder import load_encoder
from kshot.measures.metrics import compute, metric_for
from kshot.race.stream import make_stream
from kshot.verbs.adapt import adapt

POOL, SEEDS, N_TEST, BUDGET = 100, (0, 1, 2), 200, "10m"
TASKS = ("multilabel/mixsnips", "multilabel/goemotions")
METRICS = ("micro_f1", "macro_f1", "exact_match", "hamming")
PLAIN = "one-vs-rest"  # scikit-learn's, as it is: each label from probability 1/2 on
RECIPES = (PLAIN, "embedding-lr", "tfidf-lr", "majority", "zero-shot", "random", "random:composer=yes-no", "all")


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything."""
    return [RecipeUnit("", task, recipe, seed) for seed in SEEDS for recipe in RECIPES for task in TASKS]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row."""
    whole = Task.load(f"{data}/{unit.task}")
    train = make_stream(whole, limit=POOL, seed=unit.seed).examples[:POOL]
    task = replace(whole, train=train, test=whole.test[:N_TEST])
    began, cpu = time.perf_counter(), time.process_time()
    chosen, answers = _plain(task) if unit.recipe == PLAIN else _raced(task, unit, model)
    row = {"task": unit.task, "recipe": unit.recipe, "seed": unit.seed, "chosen": chosen, "model": model}
    row |= {"threads": torch.get_num_threads(), "budget": _budget(unit) or ""}
    gold = [(e.output,) for e in task.test]
    values = {m: compute(metric_for(m, task.kind), gold, answers, labels=task.labels) for m in METRICS}
    row |= values | {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    print(unit.name, f"{values['micro_f1']:.3f}", file=sys.stderr, flush=True)
    return [row | {"n_train": len(task.train), "n_test": len(task.test)}]


def _budget(unit: RecipeUnit) -> str | None:
    return BUDGET if unit.recipe == "all" else None


def _raced(task: Task, unit: RecipeUnit, model: str) -> tuple[str, list[str]]:
    with TemporaryDirectory() as folder:
        run = adapt(task, model, recipes=unit.recipe, limit=POOL, budget=_budget(unit), seed=unit.seed, out=folder)
        return run.chosen, [str(p.answer) for p in run.best.predictions(task.test)]


def _plain(task: Task) -> tuple[str, list[str]]:
    """Fit scikit-learn's regressions on the same embeddings as `embedding-lr`, with the same C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    encoder = load_encoder("minilm")
    holds = indicator([e.output for e in task.train], task.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that all rows or none have
        model = OneVsRestClassifier(LogisticRegression(C=10.0, max_iter=1000))
        model.fit(encoder.embed([e.text for e in task.train]).astype(np.float64), holds.astype(int))
        said: Sequence[Any] = model.predict(encoder.embed([e.text for e in task.test]).astype(np.float64))
    return PLAIN, [having(row.astype(bool), task.labels) for row in said]


RESULTS = Results("labels", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
