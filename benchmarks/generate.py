"""Whether examples that the model makes itself help: against none, and against as many further real ones.

Run by `kshot bench generate --data DIR` in the repository. A unit of work (one generator with one recipe on one task,
with one draw of the training set) is done in a process of its own and kept under kshot-runs/bench-generate, so the same
command goes on where it stopped; all that is there goes into docs/results/generate.json and docs/results/generate.md.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from generate_page import page, summary
from rows import RecipeUnit, Results, measure_one, tested_row

import kshot
from kshot.adapted.model import AdaptedModel
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.methods.generators import GENERATORS
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

SIZES, SEEDS, N_TEST = (10, 30), (0, 1, 2), 200
TASKS = (
    "classification/sst2",
    "classification/trec",
    "classification/subj",
    "intent/snips",
    "math/multiarith",  # whose rows have reasons, and so skills
)
NONE, REAL = "none", "real"
MAKERS = (NONE, REAL, "rephrase", "ensemble", "skills", "tailored")
RECIPES = {"prompt": "random:k=8", "fine-tune": "fine-tune:batch=8,lr=3e-4,steps=3"}


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything.

    A unit's recipe is the name of the generator, and its layer the number of known examples and the recipe's name.
    """
    return [
        RecipeUnit(f"{size}-{name}", task, maker, seed)
        for seed in SEEDS
        for size in SIZES
        for task in TASKS
        for name in RECIPES
        for maker in MAKERS
        if maker != "skills" or task.startswith("math/")
    ]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row."""
    size, _, name = unit.layer.partition("-")
    whole, n = Task.load(f"{data}/{unit.task}"), int(size)
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed).examples
    train = stream[: 2 * n if unit.recipe == REAL else n]
    task = replace(whole, train=train, test=whole.test[:N_TEST])
    plain, began = RECIPES[name], time.perf_counter()
    about: dict[str, Any] = {"task": unit.task, "maker": unit.recipe, "model": model, "n_known": len(train)}
    if unit.recipe in GENERATORS:
        made = f"{plain},generator={unit.recipe}(n={n})"
        adapted, verdict = _raced(task, model, plain, made, unit.seed)
        about |= verdict
    else:
        adapted = _fitted(task, model, plain, unit.seed)
    fit_seconds = time.perf_counter() - began
    row = tested_row(adapted, task, about) | {"fit_seconds": fit_seconds}
    print(unit.name, f"{row['metric']:.3f}", file=sys.stderr, flush=True)
    return [row]


def _raced(task: Task, model: str, plain: str, made: str, seed: int) -> tuple[AdaptedModel, dict[str, Any]]:
    """Return the recipe with what was made, fitted, and what a race along the stream says of it."""
    with TemporaryDirectory() as folder:
        run = kshot.adapt(task, model, recipes=[plain, made], seed=seed, race=False, out=Path(folder) / "run")
    rows = {row["recipe"]: row for row in run.leaderboard}
    told = {what: {k: rows[name][k] for k in ("metric", "bits_per_example", "deployed", "deployed_bits")}
            for what, name in (("without", plain), ("with", made))}  # fmt: skip
    adapted = run.best if run.chosen == made else _fitted(task, model, made, seed)
    counts = rows[made].get("made", {"made": 0, "rejected": 0})
    return adapted, {"chosen": run.chosen == made, "prequential": told, **counts}


def _fitted(task: Task, model: str, recipe: str, seed: int) -> AdaptedModel:
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), seed)
    examples: tuple[Example, ...] = task.train
    return AdaptedModel.fit(parse_recipe(recipe, shots=8), examples, setup, choice={})


RESULTS = Results("generate", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
