"""Prompt, weights, or both? Zero-shot, demonstrations, fine-tuning and ICL+FT on real tasks, N = 30 and more.

Run by `kshot bench weights --data DIR` in the repository. Units of work (a task, a method, a seed, a size) are done in
a fixed order and kept one by one under kshot-runs/bench-weights, so the same command goes on where it stopped; all that
is there goes into docs/results/weights.json and docs/results/weights.md. Settings are chosen by the stream of training
rows alone; the test rows are only measured.
"""

import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the two files beside

from rows import first_examples, kept_rows, measure_one, restore_units, run_units, tested_row
from weights_page import page, summary

from kshot.adapted.model import AdaptedModel
from kshot.core.lessons import DivergedError
from kshot.core.types import Query, Task
from kshot.engine.load_model import load_model
from kshot.evaluators.forgetting import perplexity
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.calibration import UNCALIBRATED, calibrated
from kshot.measures.samples import sample_row, summarise
from kshot.race.stream import Stream
from kshot.recipes.grammar import parse_recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

TASKS = (
    "classification/trec",
    "bbh/navigate",
    "classification/sst2",
    "bbh/boolean_expressions",
    "functions/country_capital",
    "bbh/sports_understanding",
    "parsing/geoquery_prolog",
    "intent/banking77",
)
LARGE = ("classification/trec", "bbh/navigate", "classification/sst2", "bbh/boolean_expressions")
N_TEST, SPLIT = 50, 0.8
# Three settings for each way of training, the same in both. With a batch of 4, fine-tuning learns as many answers in a
# step as 3 demonstrations and a query have, and takes as many steps: it is matched to ICL+FT.
TRAINED = ("lr=1e-4,steps=3,target=current", "lr=1e-4,steps=3,target=any-seen", "lr=3e-4,steps=3,target=any-seen")
METHODS: dict[str, tuple[str, ...]] = {
    "prompt": ("zero-shot", "random:fresh=true,k=1", "random:fresh=true,k=3", "random:fresh=true,k=10"),
    "icl+ft": tuple(f"icl+ft:{settings}" for settings in TRAINED),
    "fine-tune": tuple(f"fine-tune:batch=4,{settings}" for settings in TRAINED),
}
ABLATIONS = tuple(
    f"icl+ft:lr=1e-4,steps=3,target=any-seen,{more}" for more in ("loss=last", "fixed=true", "k=1", "k=0")
)
# Plain fine-tuning as in the paper: the newest example alone, as many answers as ICL+FT learns in 3 steps
PAPER = ("fine-tune:batch=1,target=current,lr=1e-4,steps=12",)
RETRIEVERS = ("bm25", "dense")
RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Unit:
    """What is done at once: the recipes of one method on one task."""

    layer: str
    task: str
    method: str
    recipes: tuple[str, ...]
    seed: int
    n: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.layer}-{self.task.replace('/', '-')}-{self.method}-s{self.seed}-n{self.n}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    first = [Unit("1-first", t, m, r, 0, 30) for t, (m, r) in product(TASKS, METHODS.items())]
    paper = [Unit("1-paper", t, "fine-tune", PAPER, 0, 30) for t in TASKS]
    seeds = [Unit("2-seed", t, m, r, 1, 30) for t, (m, r) in product(TASKS, METHODS.items())]
    large = [Unit("3-large", t, m, r, 0, 100) for t, (m, r) in product(LARGE, METHODS.items())]
    ablations = [Unit("4-ablations", t, "ablations", ABLATIONS, 0, 30) for t in LARGE]
    return [*first, *paper, *seeds, *large, *ablations]


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each recipe."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = first_examples(whole, unit.n, seed=unit.seed)
    task = replace(whole, train=stream.examples, test=whole.test[:N_TEST])
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    rows, best = [], None
    for name in unit.recipes:
        row, adapted = _measure_recipe(name, unit, setup, stream)
        rows.append(row)
        if unit.method == "icl+ft" and adapted and (best is None or _by_stream(row) > _by_stream(best[0])):
            best = row, adapted
    if best and unit.layer == "1-first":  # the chosen weights after demonstrations that are looked up for each query
        for selector in RETRIEVERS:
            row, adapted = best
            recipe = parse_recipe(f"{row['recipe']},selector={selector}", shots=1)
            fitted = replace(adapted.fitted, recipe=recipe)
            other = AdaptedModel(replace(fitted, calibration=adapted.fitted.calibration), choice={})
            about = {"task": unit.task, "recipe": recipe.name, "n": unit.n, "asked_with": selector}
            rows.append(tested_row(other, task, about))
    return rows


def _measure_recipe(name: str, unit: Unit, setup: Setup, stream: Stream) -> tuple[dict[str, Any], AdaptedModel | None]:
    task, began = setup.task, time.perf_counter()
    recipe = parse_recipe(name, shots=1)
    at = int(SPLIT * len(stream.examples))
    queries = [replace(q, wants_text=task.is_open and i >= at) for i, q in enumerate(stream.queries())]
    held = [Query(e, stream.examples[:at], wants_text=task.is_open) for e in stream.examples[at:]]
    more: dict[str, Any] = {}
    if recipe.trains:
        assert setup.model is not None
        learner, predictions, split = TrainedLearner(recipe, setup), [], []
        try:
            for i, query in enumerate(queries):
                predictions.append(learner.predict_next(query))
                if i == at:
                    split = learner.predict(held)
            fitted = learner.fit(stream.examples)
        except DivergedError as error:
            return {"task": unit.task, "recipe": name, "seed": unit.seed, "n": unit.n, "status": str(error)}, None
        more["supervised_tokens"] = sum(step["supervised"] for step in learner.log)
        more["perplexity_before"], more["perplexity_after"] = perplexity(setup.model.model), perplexity(learner.model)
    else:
        learner = make_learner(recipe, setup)
        predictions, fitted = learner.predict([*queries, *held]), learner.fit(stream.examples)
        predictions, split = predictions[: len(queries)], predictions[len(queries) :]
    calibration = UNCALIBRATED if task.is_open else calibrated(predictions, stream.examples)[1]
    adapted = AdaptedModel(replace(fitted, pool=stream.examples, calibration=calibration), choice={})
    fit_seconds = time.perf_counter() - began
    row = (
        tested_row(adapted, task, {"task": unit.task, "recipe": name, "n": unit.n})
        | more
        | {"fit_seconds": fit_seconds}
    )
    for prefix, some, examples in (
        ("prequential", predictions, stream.examples),
        ("split", split, stream.examples[at:]),
    ):
        samples = [sample_row(task, name, i, e, p) for i, (e, p) in enumerate(zip(examples, some, strict=True))]
        found = summarise(task, samples, seed=unit.seed)
        row |= {f"{prefix}_metric": found["metric"], f"{prefix}_bits": found["bits_per_example"]}
    return row, adapted


def _by_stream(row: dict[str, Any]) -> tuple[float, float]:
    return row["prequential_metric"], -row["prequential_bits"]


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    kept, units = Path("kshot-runs/bench-weights"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "weights.json")
    commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in units]
    run_units(commands, budget_s=budget_s, done=lambda: print(write(units, kept)["done"], "units", file=sys.stderr))
    return write(units, kept)


def write(units: list[Unit], kept: Path) -> dict[str, Any]:
    """Write weights.json and weights.md of everything that is kept."""
    (rows, done), out = kept_rows(units, kept), RESULTS
    out.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    write_json(out / "weights.json", result)
    write_text(out / "weights.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
