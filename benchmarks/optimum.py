"""How far selectors are from the best demonstrations, on made-up tasks of which these are known.

Run by `kshot bench optimum` in the repository; it needs no data. A unit of work (one selector on all classes and seeds)
is done in a process of its own and kept under kshot-runs/bench-optimum, so the same command goes on where it stopped;
all that is there goes into docs/results/optimum.json and docs/results/optimum.md.

Layer `choice` measures what selectors choose, with the posterior as the learner (`kshot.studies.regret`); those that
ask a language model ask the tiny one that is made in memory, whose weights are random. Layer `answers` has a real model
choose and answer.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from optimum_page import BEST, page, summary
from rows import Results, measure_one, measured_row

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.engine.load_model import load_model
from kshot.learners.build import lacking
from kshot.learners.learner import Setup
from kshot.methods.selectors import SELECTORS
from kshot.recipes.grammar import parse_recipe
from kshot.studies import STUDIES
from kshot.studies.regret import best_set, regret
from kshot.studies.task_family import Study
from kshot.taskmodel.taskmodel import TaskModel

N = 32
CLASSES = (
    "boolean(of=monotone-conjunction)",
    "boolean(of=conjunction)",
    "boolean(of=disjunction)",
    "boolean(of=dnf)",
    "boolean(of=parity)",
    "boolean(of=nearest-neighbour)",
    "prism(of=dense)",
    "prism(of=mixture)",
)
ANSWERED = ("boolean(of=monotone-conjunction)", "boolean(of=parity)", "prism(of=mixture)")
SEEDS = (0, 1, 2, 3)
FEWER = {  # those that cost minutes a task: with less work, on fewer draws and classes
    "less": ("less:epochs=2,snapshots=2", 1, 8),
    "ease": ("ease:evaluations=12,kept=8,steps=50", 1, 8),
    "evolution": ("evolution:evaluations=20", 2, 8),
    "missing-skills": ("missing-skills", 1, 8),
    "lars": ("lars:tokens=8", 1, 3),
    "llm-r": ("llm-r:queries=32,candidates=4,epochs=1,reward_epochs=1", 1, 3),
}
ASKED = ("random", "bm25", "dense", "best-of-n", "gradient-matching")  # by a real model too, with two seeds
CHOICE, ANSWERS = "choice", "answers"


@dataclass(frozen=True)
class Unit:
    """What is done at once: one selector on all classes and seeds of a layer."""

    layer: str
    selector: str
    seeds: int
    classes: int

    @property
    def name(self) -> str:
        """Its file's name."""
        selector = "".join(c if c.isalnum() else "-" for c in self.selector)
        return f"{self.layer}-{selector}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done: the quick ones first."""
    usual = [(name, *FEWER.get(name, (name, len(SEEDS), len(CLASSES)))) for name in SELECTORS]
    choice = [Unit(CHOICE, *how) for _, *how in usual]
    answers = [Unit(ANSWERS, name, 2, len(ANSWERED)) for name in (BEST, *ASKED)]
    quick = [unit for unit in choice if unit.seeds == len(SEEDS)]
    return [*quick, *answers, *(unit for unit in choice if unit.seeds < len(SEEDS))]


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each class and seed; one that says why where the selector suits no class."""
    named = model if unit.layer == ANSWERS else "tiny"
    language_model, rows = load_model(named), []
    for text in (ANSWERED if unit.layer == ANSWERS else CLASSES)[: unit.classes]:
        family = STUDIES.build(text)
        for seed in SEEDS[: unit.seeds]:
            task = _task(family, seed)
            setup = Setup(task, TaskModel.for_task(task, language_model), seed)
            about = {"task": text, "selector": unit.selector, "model": named, "seed": seed}
            try:
                row = about | _row(unit.selector, family, task, setup)
            except UserError as error:  # such as one that needs fields which these tasks do not have
                return [about | {"why": str(error)}]
            print(unit.name, text, seed, f"{row['regret_bits']:.3f}", f"{row['seconds']:.1f} s", file=sys.stderr)
            rows.append(row)
    return rows


def _task(family: Study, seed: int) -> Task:
    """Return the first task that is drawn with a seed and has the best demonstrations among its rows."""
    for number in range(100):
        task = family.sample(N, rng=generator(seed, "study", number))
        if family.teaching(task) is not None:
            return task
    raise UserError(f"'{family}' must have tasks of {N} rows whose best demonstrations are known; it has none.")


def _row(selector: str, family: Study, task: Task, setup: Setup) -> dict[str, Any]:
    """Return what a selector's choice of as many demonstrations as the best set has costs."""
    best = best_set(family, task)
    pool: tuple[Example, ...] = best if selector == BEST else task.train
    recipe = parse_recipe("all-past" if selector == BEST else selector, shots=len(best), raced=False)
    if why := recipe.obstacle(task) or lacking(recipe, setup):
        raise UserError(str(why))
    began = time.perf_counter()
    adapted = AdaptedModel.fit(recipe, pool, replace(setup, task=replace(task, train=pool)), choice={})
    predictions = adapted.predictions(task.test)
    rows = {e.id: e for e in task.train}
    found = regret(family, task, [[rows[i] for i in p.demonstrations] for p in predictions])
    answered = measured_row(task, predictions, {"seed": setup.seed})
    return {
        "k": found.k,
        "n_shown": found.n_shown,
        "found": found.found,
        "regret_bits": found.bits,
        "regret_accuracy": found.accuracy,
        "model_accuracy": answered["metric"],
        "same_answer": Counter(p.answer for p in predictions).most_common(1)[0][1] / len(predictions),
        "model_bits": answered["bits_per_example"],
        "n_test": answered["n_test"],
        "seconds": time.perf_counter() - began,
    }


RESULTS = Results("optimum", __file__, planned, summary, page)
write = RESULTS.write


def run(*, data: str = "", budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows; see `rows.Results`."""
    return RESULTS.run(data=data, budget_s=budget_s, model=model)


if __name__ == "__main__":
    measure_one(planned, measure)
