"""Whether examples that the model makes itself help: against none, and against as many further real ones.

Run by `kshot bench generate --data DIR` in the repository. A unit of work (all generators on one task, with one draw of
the training set) is done in a process of its own and kept under kshot-runs/bench-generate, so the same command goes on
where it stopped, also in the middle of a unit; all that is there goes into docs/results/generate.json and
docs/results/generate.md.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from generate_page import page, summary
from rows import RecipeUnit, Results, measure_one, tested_row

from kshot.adapted.model import AdaptedModel
from kshot.core.ledger import Ledger
from kshot.core.progress import Silence
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.learners.learner import Setup
from kshot.race.measure import Measuring
from kshot.race.race import Race
from kshot.race.stream import Stream, make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel

SIZES, SEEDS, N_TEST = (10, 30), (0, 1, 2), 200
TASKS = (
    "classification/sst2",
    "classification/trec",
    "classification/subj",
    "intent/snips",
    "math/multiarith",  # whose rows have reasons, and so skills
)
NONE, REAL, MAKERS, SKILLS = "none", "real", ("rephrase", "ensemble", "tailored"), "skills"
# A prompt shows all that there is, so that no draw decides
RECIPES = {"prompt": "all-past", "fine-tune": "fine-tune:batch=8,lr=3e-4,steps=3"}


def planned() -> list[RecipeUnit]:
    """Return all units, in the order in which they are done: first one draw of everything.

    A unit's layer is the number of known examples; its recipes are all of RECIPES, as they are and with each generator.
    """
    return [RecipeUnit(str(size), task, "all", seed) for seed in SEEDS for size in SIZES for task in TASKS]


def measure(unit: RecipeUnit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return the rows of each recipe: alone, with further real examples, and with those of generators.

    All go along the same stream with one store, so that what several of them ask or learn is computed once.
    """
    whole, n = Task.load(f"{data}/{unit.task}"), int(unit.layer)
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed).examples
    known, more = stream[:n], stream[: 2 * n]
    task = replace(whole, train=known, test=whole.test[:N_TEST])
    folder = Path("kshot-runs/bench-generate") / f"{unit.name}.run"
    folder.mkdir(parents=True, exist_ok=True)
    store = SqliteStore(folder / "store.sqlite")
    asked = TaskModel.for_task(task, load_model(model).with_store(store))
    setup, spread = Setup(task, asked, unit.seed, store=store), Stream(known, tuple(range(n)))
    measuring = Measuring(setup, spread, store, folder, Silence(), Ledger())

    def tested(name: str, maker: str, recipe: str, *, train: Sequence[Example] = known, **about: Any) -> dict[str, Any]:
        began, parsed = time.perf_counter(), parse_recipe(recipe, shots=8)
        last = measuring.last_setup(parsed) if train is known else setup
        adapted = AdaptedModel.fit(parsed, train, last, choice={})
        about |= {"layer": f"{n}-{name}", "task": unit.task, "maker": maker, "model": model, "n_known": len(train)}
        row = tested_row(adapted, task, about) | {"fit_seconds": time.perf_counter() - began}
        print(unit.name, recipe, maker, f"{row['metric']:.3f}", file=sys.stderr, flush=True)
        return row

    rows = []
    for name, plain in RECIPES.items():
        for maker in (*MAKERS, SKILLS) if unit.task.startswith("math/") else MAKERS:
            made = f"{plain}{',' if ':' in plain else ':'}generator={maker}(n={n})"
            race = Race(measuring, [parse_recipe(recipe, shots=8) for recipe in (plain, made)], drop=False)
            race.run(lambda _: None)
            board = {row["recipe"]: row for row in race.board()}
            counts = board[made].get("made", {"made": 0, "rejected": 0})
            rows.append(tested(name, maker, made, chosen=next(iter(board)) == made, **counts))
        rows += [tested(name, NONE, plain), tested(name, REAL, plain, train=more)]
    store.close()
    rmtree(folder)
    return rows


RESULTS = Results("generate", __file__, planned, summary, page)
run, write = RESULTS.run, RESULTS.write

if __name__ == "__main__":
    measure_one(planned, measure)
