"""How good is the choice? Every recipe on the stream, in folds and on test rows; rules of choice compared by regret.

Run by `kshot bench choice --data DIR` in the repository. A unit of work (a task, some recipes, a seed) is done in a
process of its own and kept under kshot-runs/bench-choice, so the same command goes on where it stopped; all that is
there goes into docs/results/choice.json and docs/results/choice.md. No choice sees a test row.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from choice_page import page, summary
from rows import kept_rows, measure_one, restore_units, run_units

from kshot.adapted.model import AdaptedModel
from kshot.core.types import Example, Prediction, Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.trained import TrainedLearner
from kshot.measures.calibration import UNCALIBRATED, calibrated
from kshot.measures.samples import sample_row
from kshot.race.halving import slices
from kshot.race.ranking import margin
from kshot.race.second_look import second_look
from kshot.race.stream import Stream, make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_text
from kshot.taskmodel.taskmodel import TaskModel

TASKS = (
    "classification/trec",
    "functions/english_spanish",
    "grounding/memotrap_proverb_ending",
    "natural_instructions/evalution_relation",
    "classification/sst2",
    "functions/person_sport",
    "intent/snips",
    "qa/nq_open",
    "bbh/sports_understanding",
    "math/addsub",
)
N, SHOTS, N_TEST, N_TEST_OPEN, N_REST, FOLDS = 100, 16, 140, 80, 40, 5
RECIPES: dict[str, tuple[str, ...]] = {
    "cheap": (
        "majority", "tfidf-lr", "embedding-lr", "zero-shot", "zero-shot:calibration=contextual", "random",
        "random:calibration=contextual", "diverse", "all-past",
    ),
    "per-query": ("bm25", "dense"),
    "trained": ("fine-tune:batch=4,lr=1e-4,steps=3", "icl+ft:lr=1e-4,steps=3"),
    "gradients": ("gradient-matching",),
}  # fmt: skip
LAYERS = (
    ("1-first", 0, ("cheap", "per-query")),
    ("2-trained", 0, ("trained",)),
    ("3-gradients", 0, ("gradients",)),
    ("4-seed", 1, ("cheap", "per-query", "trained", "gradients")),
)
RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Unit:
    """What is done at once: a group of recipes on one task."""

    layer: str
    task: str
    group: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.layer}-{self.task.replace('/', '-')}-{self.group}-s{self.seed}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    return [
        Unit(layer, task, group, seed)
        for layer, seed, groups in LAYERS
        for group, task in product(groups, TASKS)
    ]  # fmt: skip


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each recipe that suits the task."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=N, seed=unit.seed)
    test = whole.test[: N_TEST_OPEN if whole.is_open else N_TEST]
    task = replace(whole, train=stream.examples, test=test)
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    recipes = [parse_recipe(name, shots=SHOTS) for name in RECIPES[unit.group]]
    return [_Measured(unit, setup, stream, recipe).row() for recipe in recipes if recipe.suits(task)]


@dataclass
class _Measured:
    """A recipe on a task."""

    unit: Unit
    setup: Setup
    stream: Stream
    recipe: Recipe

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.setup.task

    def row(self) -> dict[str, Any]:
        """Predict the stream slice by slice, the folds, test rows and other training rows."""
        examples, queries = self.stream.examples, [replace(q, wants_text=False) for q in self.stream.queries()]
        at = _parts(len(examples))[-1][0]
        if self.recipe.trains:
            learner = TrainedLearner(self.recipe, self.setup)
            predictions, split = [], []
            for i, query in enumerate(queries):
                predictions.append(learner.predict_next(query))
                if i == at:
                    split = learner.predict([Query(e, examples[:at]) for e in examples[at:]])
            folds = [split]
        else:
            learner = make_learner(self.recipe, self.setup)
            predictions = [p for start, stop in slices(len(queries)) for p in learner.predict(queries[start:stop])]
            folds = [self._fold(part) for part in _parts(len(examples))]
        calibration = UNCALIBRATED
        if self.recipe.calibration == "temperature" and not self.task.is_open:
            predictions, calibration = calibrated(predictions, examples)
        final = AdaptedModel(replace(learner.fit(examples), calibration=calibration), choice={})
        rest = self.stream.rest[:N_REST]
        look = None
        if not any(p.fit_tokens for p in predictions):
            look = second_look(self.recipe, self.setup, examples, ())
        if look:
            again = look[0].predict(look[1])
            again = [calibration.of(p) for p in again]
            place = {e.id: i for i, e in enumerate(examples)}
            look = {
                "positions": [place[q.example.id] for q in look[1]],
                "tokens": round(sum(p.tokens + p.fit_tokens for p in again)),
                **self._scored([q.example for q in look[1]], again),
            }
        return {
            "task": self.unit.task,
            "kind": self.task.kind,
            "recipe": self.recipe.name,
            "seed": self.unit.seed,
            "n": len(examples),
            "k": self.recipe.k,
            "n_test": len(self.task.test),
            "metric_name": self.task.metrics[0],
            "stream": self._scored(examples, predictions),
            "tokens": [round(p.tokens + p.fit_tokens) for p in predictions],
            "folds": [self._fold_row(*pair) for pair in zip(_parts(len(examples))[-len(folds) :], folds, strict=True)],
            "test": self._scored(self.task.test, final.predictions(self.task.test)),
            "again": look,
            "rest": self._scored(rest, final.predictions(rest)) if rest else None,
        }  # fmt: skip

    def _fold(self, part: tuple[int, int]) -> list[Prediction]:
        """Predict a part of the stream from all of the rest of it."""
        start, stop = part
        examples = self.stream.examples
        assert self.setup.model is not None
        counted = replace(self.setup.model, ledger=self.setup.model.ledger.part())
        learner = make_learner(self.recipe, replace(self.setup, model=counted))
        fitted = learner.fit(examples[:start] + examples[stop:])
        queries = [Query(e, fitted.pool) for e in examples[start:stop]]
        predictions = answering(fitted).predict(queries)
        tokens = counted.ledger.cost.tokens / len(queries)
        return [replace(p, tokens=tokens, fit_tokens=0.0) for p in predictions]

    def _fold_row(self, part: tuple[int, int], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return a fold; its calibration is fitted on itself: an advantage that is small and the same for all."""
        start, stop = part
        examples = self.stream.examples[start:stop]
        if self.recipe.calibration == "temperature" and not self.task.is_open:
            calibration = calibrated(predictions, examples)[1]
            predictions = [calibration.of(p) for p in predictions]
        tokens = round(sum(p.tokens + p.fit_tokens for p in predictions))
        return {"start": start, "stop": stop, "tokens": tokens, **self._scored(examples, predictions)}

    def _scored(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, list[Any]]:
        samples = [
            sample_row(self.task, "", i, e, p) for i, (e, p) in enumerate(zip(examples, predictions, strict=True))
        ]
        return {
            "scores": [None if s["score"] is None else round(s["score"], 4) for s in samples],
            "bits": [round(s["bits"], 3) for s in samples],
            "margins": None if self.task.is_open else [round(margin(s), 3) for s in samples],
        }  # fmt: skip


def _parts(n: int) -> list[tuple[int, int]]:
    return [(i * n // FOLDS, (i + 1) * n // FOLDS) for i in range(FOLDS)]


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    kept, units = Path("kshot-runs/bench-choice"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "choice.json")
    commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in units]
    run_units(commands, budget_s=budget_s, done=lambda: print(write(units, kept)["done"], "units", file=sys.stderr))
    return write(units, kept)


def write(units: list[Unit], kept: Path) -> dict[str, Any]:
    """Write choice.json and choice.md of everything that is kept."""
    rows, done = kept_rows(units, kept)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)  # not a line for each number
    head = json.dumps({**result, "rows": []}, ensure_ascii=False, indent=1)
    write_text(RESULTS / "choice.json", head.replace('"rows": []', f'"rows": [\n{lines}\n]') + "\n")
    write_text(RESULTS / "choice.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
