"""Which demonstrations to show: gradient matching and others against random draws, on two models and between them.

Run by `kshot bench selection --data DIR` in the repository; writes docs/results/selection.json, .md and .png. Units of
work (a task, a group of methods, who chooses, who answers) are done in a fixed order, each in a process of its own, and
kept under kshot-runs/bench-selection; the same command goes on where it stopped. Layer `0-variants` compares variants
on training rows outside the pool; test rows are only measured.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from rows import measured_row, named, restore_units, run_units
from selection_page import figure, page, summary

from kshot.core.errors import UserError
from kshot.core.gradient_settings import GradientStore
from kshot.core.seeding import generator
from kshot.core.types import Example, Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.build import make_learner
from kshot.learners.demonstrations import chosen, fitted
from kshot.learners.learner import Setup
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

TASKS = (
    "classification/trec",
    "classification/mr",
    "classification/subj",
    "classification/sst5",
    "classification/agnews",
    "classification/mnli",
    "qa/commonsenseqa",
    "parsing/smcalflow",
    "parsing/geoquery_sql",
)
VARIED = ("classification/trec", "classification/mr", "classification/agnews")
POOL, N_TEST, N_TEST_ALONE, N_WRITTEN, N_DRAWS = 200, 100, 50, 20, 8
KS, MORE_KS = (8, 32), (4, 16, 64, 128)
GM = "gradient-matching"
METHODS = {
    "random": tuple(f"draw-{i}" for i in range(N_DRAWS)),
    "default": (GM,),
    "matching": tuple(f"{GM}:candidates=1,normalize={how}" for how in ("row", "none")),
    "others": ("diverse", "best-of-n"),
    "prefix": tuple(f"{GM}:of=prefix,projection=0,candidates=1,normalize={how}" for how in ("row", "none")),
    "bm25": ("bm25",),
    "dense": ("dense",),
    "controls": (  # as many scorings as gradient matching with 8 candidates, equal numbers of each label, no model
        "best-of-n:n=8,queries=32",
        "random:balanced=true",
        f"{GM}:of=last-block,candidates=1",
        f"{GM}:of=last-block,candidates=8,queries=32",
    ),
    "paper": (f"{GM}:paper=true",),
    "less": ("less",),
    "bm25-major": ("bm25-major",),
}
# Said in full, whatever the defaults are
PREFIX, LAST = (f"{GM}:of={of},candidates=1" for of in ("prefix,projection=0", "last-block,projection=1024"))
PREFIX_8, LAST_8 = (name.replace("candidates=1", "candidates=8") for name in (PREFIX, LAST))
VARIANTS = {
    "prefix": (
        *(f"{PREFIX},normalize={how}" for how in ("row", "none", "snapshot")),
        f"{PREFIX},normalize=row,balanced=true",
        f"{PREFIX},normalize=row,order=shuffled",
        f"{PREFIX},normalize=row,order=most-confident-last",
        f"{PREFIX_8},normalize=row",
        f"{PREFIX},normalize=row,snapshots=1",
    ),
    "last-block": (
        *(f"{LAST},normalize={how}" for how in ("row", "none")),
        f"{LAST},normalize=row,balanced=true",
        f"{LAST},normalize=row,order=shuffled",
        f"{LAST_8},normalize=row",
        "best-of-n:n=8,queries=32",  # as many sets and scorings as the variants with candidates
    ),
    "combined": (
        f"{LAST_8},normalize=none",
        f"{LAST},normalize=none,balanced=true",
        f"{LAST},normalize=none,order=shuffled",
        f"{PREFIX_8},normalize=none",
    ),
    "wide": (f"{LAST_8},normalize=row,queries=64".replace("candidates=8", "candidates=16"),),
}
LONG_ANSWERS = (  # of one token, a sum and a mean are the same choice
    *(f"{LAST},normalize={how}" for how in ("row", "none")),
    f"{LAST},normalize=none,loss=mean",
    f"{LAST_8},normalize=none",
)
RESULTS, KEPT = Path("docs/results"), Path("kshot-runs/bench-selection")


@dataclass(frozen=True)
class Unit:
    """What is done at once: methods on one task, chosen by one model, answered by another, for some numbers."""

    layer: str
    task: str
    method: str
    names: tuple[str, ...]
    ks: tuple[int, ...] = KS
    chooser: str = "demo"
    answerer: str = "demo"
    n_test: int = N_TEST
    pool: int = 0

    @property
    def name(self) -> str:
        """Its file's name."""
        name = "-".join((self.layer, self.task.replace("/", "-"), self.method, self.chooser, self.answerer))
        return f"{name}-pool{self.pool}" if self.pool else name


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    varied = {"random": METHODS["random"], **VARIANTS}
    variants = [Unit("0-variants", t, m, names) for m, names in varied.items() for t in VARIED]
    for m, names in (("random", METHODS["random"]), ("long-answers", LONG_ANSWERS)):
        variants.append(Unit("0-variants", "parsing/geoquery_sql", m, names))
    once = ("random", "default", "others", "matching", "prefix")
    first = [Unit("1-first", t, m, METHODS[m]) for m in once for t in TASKS]
    # A prompt of its own for each query costs most: small prompts first, and large ones for fewer test rows
    for k, n_test in zip(KS, (N_TEST, N_TEST_ALONE), strict=True):
        first += [
            Unit(f"1-first-k{k}", t, m, METHODS[m], (k,), n_test=n_test) for t in TASKS for m in ("bm25", "dense")
        ]
    carried = [
        Unit("2-carried", t, m, METHODS[m], chooser=by, answerer=to)
        for t in TASKS
        for by, to, methods in (
            ("demo", "smollm2", ("random", "default", "others")),
            ("smollm2", "demo", ("default",)),
        )
        for m in methods
    ]
    controls = [
        Unit("2-controls", t, m, METHODS[m], (8,), pool=pool)
        for pool in (0, 1)
        for t in (*VARIED, "classification/subj")
        for m in ("random", "controls")
        if pool or m == "controls"  # random draws from the first pool are there
    ]
    more = [Unit("3-more", t, m, METHODS[m]) for m in ("paper", "less", "bm25-major") for t in TASKS]
    sizes = [Unit("4-sizes", t, m, METHODS[m], MORE_KS) for t in TASKS for m in ("random", "default")]
    return [*variants, *first, *controls, *carried, *more, *sizes]


def measure(unit: Unit, data: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each of its sets."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=len(whole.train), seed=unit.pool)
    pool, rest = stream.examples[:POOL], stream.examples[POOL:]
    queries = (rest if unit.layer == "0-variants" else whole.test)[: unit.n_test]
    task = replace(whole, train=pool, test=queries)
    answering = TaskModel.for_task(task, load_model(named(unit.answerer)))
    choosing = answering if unit.chooser == unit.answerer else TaskModel.for_task(task, load_model(named(unit.chooser)))
    folder = KEPT / "gradients" / unit.chooser / f"{unit.task.replace('/', '-')}-{unit.pool}"
    notes: list[Any] = []
    choosing = replace(choosing, gradient_store=GradientStore(folder), notes=notes.append)
    setup = Setup(task, answering, 0, selector_model=choosing)
    rows = []
    for k in unit.ks:
        for name in unit.names:
            notes.clear()
            row = _measured(name, k, setup)
            if unit.pool:
                row |= {"pool": unit.pool}
            rows.append(row | {"task": unit.task, "chosen_by": unit.chooser, "answered_by": unit.answerer} |
                        ({"matching": notes[0]} if notes else {}))  # fmt: skip
            print(unit.name, name, k, f"{row['metric']:.2f} {row['bits_per_example']:.2f}", file=sys.stderr, flush=True)
    return rows


def _measured(name: str, k: int, setup: Setup) -> dict[str, Any]:
    """Return the row of the set that a method chooses, or of a method that chooses for each query."""
    task, pool = setup.task, setup.task.train
    recipe = parse_recipe("random" if name.startswith("draw-") else name, shots=k)
    if recipe.shows_one_set:
        assert setup.selector_model is not None
        pool = _set(name, k, recipe, pool, setup.selector_model)
        order = "" if recipe.order == "as-selected" else f",order={recipe.order}"
        recipe = parse_recipe(f"all-past:limit={k}{order}", shots=k)
    learner = make_learner(recipe, setup)
    queries = [Query(e, pool, wants_text=task.is_open and i < N_WRITTEN) for i, e in enumerate(task.test)]
    about = {"recipe": name, "k": k, "n": POOL, "seed": 0, "demonstrations": [e.id for e in pool][:k]}
    return measured_row(task, learner.predict(queries), about)


def _set(name: str, k: int, recipe: Recipe, pool: Sequence[Example], model: TaskModel) -> tuple[Example, ...]:
    """Return what is shown for the whole task, in the selector's order."""
    if name.startswith("draw-"):
        return tuple(pool[i] for i in generator(0, name).permutation(len(pool))[:k])
    selector = fitted(recipe.part("selector"), pool, model=model, seed=0)
    ((indices,),) = chosen(selector, pool, k, [None], seed=0)
    return tuple(pool[i] for i in indices)


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary.

    Raises:
        UserError: A model is named: the benchmark has its own two.
    """
    if model != "demo":
        raise UserError(f"--model must be left out: this benchmark compares two models of its own; got '{model}'.")
    kept, units = KEPT / "units", planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "selection.json")
    files = [kept / f"{u.name}.json" for u in units]
    commands = [(f, [sys.executable, __file__, u.name, data, str(f)]) for f, u in zip(files, units, strict=True)]
    run_units(commands, budget_s=budget_s, done=lambda: print(write(units)["done"], "units", file=sys.stderr))
    return write(units)


def write(units: Sequence[Unit]) -> dict[str, Any]:
    """Write selection.json, .md and .png of everything that is kept."""
    rows, done = [], 0
    for unit in units:
        file = KEPT / "units" / f"{unit.name}.json"
        if file.exists():
            done += 1
            own = json.loads(file.read_text("utf-8"))["rows"]
            rows += [{"layer": unit.layer, "unit": unit.name, **row} for row in own]
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    write_json(RESULTS / "selection.json", result)
    write_text(RESULTS / "selection.md", page(result))
    figure(rows, RESULTS / "selection.png")
    return {key: value for key, value in result.items() if key != "rows"}


def main() -> None:
    """Measure one unit."""
    name, data, file = sys.argv[1:]
    (unit,) = (u for u in planned() if u.name == name)
    write_json(Path(file), {"unit": asdict(unit), "rows": measure(unit, data)})
    print(f"{name}: done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
