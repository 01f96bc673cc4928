"""What selectors and composers bring: each against its natural control, on test rows, by two models.

Run by `kshot bench compose --data DIR` in the repository. A unit of work (one recipe on one task, with one draw of the
training set, by one model) is done in a process of its own and kept under kshot-runs/bench-compose, so the same command
goes on where it stopped; all that is there goes into docs/results/compose.json and docs/results/compose.md. A control
that several methods share is measured once. Nothing is calibrated: what is compared is what the prompts say.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from comparisons import COMPARISONS
from compose_page import page, summary
from rows import RecipeUnit, Results, measure_one, measured_row, named

from kshot.core.types import Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

POOL, K, SEEDS = 100, 4, (0, 1, 2)
N_TEST, N_WRITTEN = 200, 60  # rows of closed tasks, and of those in which texts are written


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything by each model."""
    layers = [("demo", 0), ("smollm2", 0), ("demo", 1), ("demo", 2)]
    pairs = dict.fromkeys(
        (task, recipe) for c in COMPARISONS for task in c.tasks for recipe in (c.control, c.recipe)
    )  # fmt: skip
    return [
        RecipeUnit(f"{i}", task, recipe, seed, model)
        for i, (model, seed) in enumerate(layers)
        for task, recipe in pairs
    ]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row; `model` is not used: a unit names its own."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed)
    writes = whole.is_open or any(name in unit.recipe for name in ("reason-first", "elaborated", "recycled"))
    test = whole.test[: N_WRITTEN if writes else N_TEST]
    task = replace(whole, train=stream.examples[:POOL], test=test)
    setup = Setup(task, TaskModel.for_task(task, load_model(named(unit.model))), unit.seed)
    assert setup.model is not None
    recipe = parse_recipe(unit.recipe, shots=K)
    fitted = make_learner(recipe, setup).fit(task.train)
    cost = setup.model.ledger.cost
    predictions = answering(fitted).predict([Query(e, fitted.pool, wants_text=True) for e in test])
    about = {"task": unit.task, "kind": task.kind, "recipe": unit.recipe, "model": unit.model, "seed": unit.seed}
    row = measured_row(task, predictions, about)
    row |= {"run_tokens": sum(p.tokens for p in predictions) / len(predictions)}
    row |= {"fit_tokens": cost.tokens, "fit_requests": cost.scored}
    print(unit.name, f"{row['metric']:.3f}", file=sys.stderr, flush=True)
    return [row]


RESULTS = Results("compose", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
