"""More labels than examples: what training does to labels that it has not seen, and what helps.

    python benchmarks/new_labels.py --data DIR [--minutes M]

In the repository; DIR holds intent/banking77: 77 labels, of which 30 examples have about 27. Units of work (a recipe
and a draw of the examples) are kept one by one under kshot-runs/bench-new-labels, so the same command goes on where it
stopped. What is there goes into docs/results/new-labels.json and docs/results/new-labels.md. Combinations and
calibrations are computed from what is kept: they ask no model.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

import numpy as np
from new_labels_page import page, summary
from rows import first_examples, kept_rows, measure_one, run_units

from kshot.core.types import Example, Prediction, Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.recipes.grammar import parse_recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

TASK, N, N_TEST, SEEDS = "intent/banking77", 30, 100, (0, 1, 2)
HOW = "batch=4,lr=1e-4,steps=3"
FASTER = HOW.replace("1e-4", "3e-4")  # of 48 steps on 16 examples of 24 labels, by 80 further training rows
RECIPES = (
    "zero-shot",
    f"fine-tune:{HOW},over=seen",
    f"fine-tune:{FASTER},teacher=hard-negatives",
    f"fine-tune:{HOW},over=all",
    f"fine-tune:{HOW},over=seen,balanced=true",
)
RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Unit:
    """What is done at once: a recipe on a draw of the examples."""

    layer: str
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.recipe.replace(':', '-').replace(',', '-').replace('=', '-')}-s{self.seed}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    return [Unit("1-first", recipe, seed) for seed, recipe in product(SEEDS, RECIPES)]


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return its row."""
    whole = Task.load(f"{data}/{TASK}")
    examples = first_examples(whole, N, seed=unit.seed).examples
    task = replace(whole, train=examples, test=whole.test[:N_TEST])
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    recipe = parse_recipe(unit.recipe, shots=1)
    learner = make_learner(recipe, setup)
    stream = learner.predict([Query(e, examples[:i]) for i, e in enumerate(examples)])
    fitted = learner.fit(examples)
    tested = answering(fitted).predict([Query(e, ()) for e in task.test])
    return [
        {
            "task": TASK,
            "recipe": unit.recipe,
            "seed": unit.seed,
            "labels": list(task.labels),
            "stream": _kept(examples, stream),
            "test": _kept(task.test, tested),
        }
    ]


def _kept(examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the right answers by their places, and log-probabilities in nats over the labels, before calibration."""
    rows = np.array([p.log_probs for p in predictions])
    rows -= np.logaddexp.reduce(rows, axis=1, keepdims=True)
    gold = [p.candidates.index(e.output) for e, p in zip(examples, predictions, strict=True)]
    return {"gold": gold, "log_probs": np.round(rows, 3).tolist()}


def run(*, data: str, minutes: float, model: str = "demo") -> dict[str, Any]:
    """Do what the time allows, each unit in a process of its own; return the summary."""
    kept, units = Path("kshot-runs/bench-new-labels"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in units]
    run_units(commands, budget_s=60 * minutes, done=lambda: None, workers=1)
    rows, _ = kept_rows(units, kept)
    found = {row["way"]: row for row in _before()}
    found |= {row["way"]: row for row in summary(rows) if row["draws"] >= found.get(row["way"], row)["draws"]}
    done = sum(found[recipe]["draws"] for recipe in RECIPES if recipe in found)
    result = {"planned": len(units), "done": done, "n_test": N_TEST, "summary": list(found.values())}
    write_json(RESULTS / "new-labels.json", result)
    write_text(RESULTS / "new-labels.md", page(result))
    return result


def _before() -> list[dict[str, Any]]:
    """Return what was written before: rows of units that were done on another machine are not here."""
    file = RESULTS / "new-labels.json"
    return json.loads(file.read_text("utf-8"))["summary"] if file.exists() else []


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--model", default="demo")
    print(json.dumps(run(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    if len(sys.argv) == 5 and not sys.argv[1].startswith("-"):
        measure_one(planned, measure)
    else:
        main()
