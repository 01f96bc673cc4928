"""More sets, or orders of fewer: what gradient matching's model should choose among, for as many candidates.

`python benchmarks/orders.py DIR TASK …` prints a line of JSON for each task of the folder. All is done on training
rows: the sets come from a pool of 200, the model judges them by 32 of these that are held out, and what it chose is
measured on 48 further ones. Every set is tried in four orders; designs with fewer candidates are drawn from these many
times.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from kshot.core.gradient_settings import GradientStore
from kshot.core.seeding import generator
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.methods.selectors.gradient_matching import GradientMatching
from kshot.methods.selectors.matching import searches
from kshot.race.stream import make_stream
from kshot.taskmodel.taskmodel import TaskModel

POOL, K, N_SETS, N_ORDERS, N_JUDGES, N_MEASURED, N_DRAWS = 200, 8, 8, 4, 32, 48, 2000
DESIGNS = ((8, 1), (4, 2), (2, 4), (8, 4))  # sets and orders of each
AVERAGED = (1, 2, 4)


def measure(task: Task, model: TaskModel) -> dict[str, Any]:
    """Return for each design the bits and the accuracy of the best candidate, and of the mean of the best few."""
    examples = make_stream(task, limit=len(task.train), seed=0).examples
    pool, measured = examples[:POOL], examples[POOL : POOL + N_MEASURED]
    how, rng = GradientMatching().settings, generator(0, "orders")
    rows = model.gradients(pool, how, seed=0)
    order = rng.permutation(len(pool)).tolist()
    held_out, others = order[:N_JUDGES], sorted(order[N_JUDGES:])
    found = searches(rows[others], K, restarts=N_SETS - 1, rng=rng)
    hands = [
        [pool[others[i]] for i in (one.indices if n == 0 else rng.permutation(one.indices))]
        for one in found
        for n in range(N_ORDERS)
    ]
    asked = [*(pool[i] for i in held_out), *measured]
    shown = [(tuple(hand), e) for hand in hands for e in asked]
    prompts = [model.prompt(hand, e)[0] for hand, e in shown]
    scores = model.score(prompts, [model.answers(e) for _, e in shown])
    right = [model.answers(e).index(e.output) for e in asked]
    logs = np.array([row - np.logaddexp.reduce(row) for row in scores]).reshape(len(hands), len(asked), -1)
    costs = -np.array([[row[i, r] for i, r in enumerate(right)] for row in logs[:, :N_JUDGES]]).mean(axis=1)
    return {
        f"{n_sets} sets x {n_orders}, mean of {m}": _drawn(
            logs[:, N_JUDGES:], right[N_JUDGES:], costs, n_sets, n_orders, m
        )
        for n_sets, n_orders in DESIGNS
        for m in AVERAGED
    }


def _drawn(
    logs: np.ndarray, right: list[int], costs: np.ndarray, n_sets: int, n_orders: int, m: int
) -> dict[str, float]:
    """Return bits and accuracy of the `m` best of candidates that are drawn from all, the mean over many draws."""
    rng, values = generator(0, "designs"), []
    for _ in range(N_DRAWS):
        sets = rng.permutation(N_SETS)[:n_sets]
        some = np.array([s * N_ORDERS + o for s in sets for o in (0, *(1 + rng.permutation(N_ORDERS - 1)))[:n_orders]])
        best = some[np.argsort(costs[some])[:m]]
        mean = np.exp(logs[best]).mean(axis=0)  # [n_measured, n_answers]
        hits = mean.argmax(axis=1) == np.array(right)
        values.append((-np.log2(mean[np.arange(len(right)), right]).mean(), hits.mean()))
    bits, accuracy = np.mean(values, axis=0)
    return {"bits": round(float(bits), 3), "accuracy": round(float(accuracy), 3)}


def main() -> None:
    """Measure the tasks that the command line names."""
    data, *names = sys.argv[1:]
    language_model = load_model("demo")
    for name in names:
        task = Task.load(f"{data}/{name}")
        model = replace(TaskModel.for_task(task, language_model), gradient_store=GradientStore())
        print(json.dumps({"task": name, **measure(task, model)}), flush=True)


if __name__ == "__main__":
    main()
