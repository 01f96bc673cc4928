"""What is left of a recipe that is put into the weights: the student beside its teacher, plain training, and nothing.

Run by `kshot bench distil --data DIR` in the repository. A unit of work (one recipe on one task, with one draw of the
training set) is done in a process of its own and kept under kshot-runs/bench-distil, so the same command goes on where
it stopped; all that is there goes into docs/results/distil.json and docs/results/distil.md.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from distil_page import page, summary
from rows import RecipeUnit, Results, measure_one, tested_row

from kshot.adapted.model import AdaptedModel
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

POOL, INPUTS, SEEDS, N_TEST = 100, 500, (0, 1, 2), 200
TASKS = (  # closed, and above chance with demonstrations (docs/results/contexts.md)
    "classification/trec",
    "classification/sst2",
    "classification/subj",
    "intent/snips",
    "natural_instructions/evalution_relation",
    "grounding/memotrap_proverb_ending",
)
TEACHER, _TRAINED = "random:k=16,contexts=8", "lr=3e-4,steps=1"  # the same for all that train
WITH_INPUTS = "with-inputs"  # the layer of units whose recipe has unlabelled inputs
RECIPES = (
    ("plain", TEACHER),
    ("plain", f"distil({TEACHER}):{_TRAINED}"),
    (WITH_INPUTS, f"distil({TEACHER}):{_TRAINED}"),
    ("plain", f"fine-tune:batch=8,{_TRAINED}"),
    ("plain", "zero-shot"),
    ("plain", f"icl+ft:k=7,{_TRAINED}"),
)


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything."""
    return [RecipeUnit(layer, task, recipe, seed) for seed in SEEDS for task in TASKS for layer, recipe in RECIPES]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed).examples
    more = stream[POOL : POOL + INPUTS] if unit.layer == WITH_INPUTS else ()
    inputs = tuple(replace(e.question, id=f"input {e.id}") for e in more)
    task = replace(whole, train=stream[:POOL], test=whole.test[:N_TEST], unlabelled=inputs)
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    assert setup.model is not None
    began = time.perf_counter()
    adapted = AdaptedModel.fit(parse_recipe(unit.recipe, shots=16), task.train, setup, choice={})
    fit_seconds, began = time.perf_counter() - began, time.perf_counter()
    row = tested_row(adapted, task, {"task": unit.task, "recipe": unit.recipe, "model": model, "inputs": len(inputs)})
    row |= {"fit_seconds": fit_seconds, "query_ms": 1000 * (time.perf_counter() - began) / len(task.test)}
    print(unit.name, f"{row['metric']:.3f}", file=sys.stderr, flush=True)
    return [row]


RESULTS = Results("distil", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
