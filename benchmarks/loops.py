"""Whether a small model learns from talking: each loop beside the same recipe without it.

Run by `kshot bench loops --data DIR` in the repository. A unit of work (one loop on one task, with one draw of the
training set) is done in a process of its own and kept under kshot-runs/bench-loops, so the same command goes on where
it stopped; all that is there goes into docs/results/loops.json and docs/results/loops.md.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from loops_page import NONE, page, summary
from rows import RecipeUnit, Results, measure_one, tested_row

from kshot.adapted.model import AdaptedModel
from kshot.core.ledger import Ledger
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.taskmodel.taskmodel import TaskModel

N, SEEDS, N_TEST, LONGEST = 30, (0, 1, 2), 200, 300  # the last in characters
TASKS = ("classification/trec", "classification/sst2", "math/multiarith")
BASES = ("zero-shot", "all-past")
LOOPS = ("notes", "refine", "rewrite", "teaching", "mental-models", "skills-from-context", "hints", "tutoring")


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything; a layer is a loop."""
    return [RecipeUnit(loop, task, "all", seed) for seed in SEEDS for task in TASKS for loop in (NONE, *LOOPS)]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its rows: of each recipe with the loop; none where the loop does not suit the task."""
    whole, loop = Task.load(f"{data}/{unit.task}"), unit.layer
    known = make_stream(whole, limit=N, seed=unit.seed).examples[:N]
    task = replace(whole, train=known, test=whole.test[:N_TEST])
    asked, rows = TaskModel.for_task(task, load_model(model)), []
    for base in BASES:
        recipe = parse_recipe(base if loop == NONE else f"{base}:loop={loop}", shots=N)
        if not recipe.suits(task):
            continue
        ledger, began = Ledger(), time.perf_counter()
        setup = Setup(task, replace(asked, ledger=ledger), unit.seed)
        adapted = AdaptedModel.fit(recipe, known, setup, choice={})
        about = {"task": unit.task, "base": base, "loop": loop, "model": model, "n_known": N}
        about |= {"fit_seconds": time.perf_counter() - began, "fit_tokens": ledger.cost.tokens, "told": _told(adapted)}
        rows.append(tested_row(adapted, task, about))
        print(unit.name, base, f"{rows[-1]['metric']:.3f}", file=sys.stderr, flush=True)
    return rows


def _told(adapted: AdaptedModel) -> dict[str, Any]:
    """Return what the loop has noted of itself, its texts cut."""
    about = adapted.fitted.about.get("selection", {})
    return {key: value[:LONGEST] if isinstance(value, str) else value for key, value in about.items()}


RESULTS = Results("loops", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
