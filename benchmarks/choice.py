"""How good is the choice? Every recipe on the stream, in folds and on test rows; rules of choice compared by regret.

Further layers have longer streams, of which the first 100 examples are predicted, and 100 that are spread over all: one
recording serves both ways. Run by `kshot bench choice --data DIR` in the repository. A unit of work (a task, some
recipes, a seed) is done in a process of its own and kept under kshot-runs/bench-choice, so the same command goes on
where it stopped; all that is there goes into docs/results/choice.json and docs/results/choice.md. No choice sees a test
row.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

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
from kshot.measures.samples import sample_row
from kshot.race.halving import slices
from kshot.race.second_look import second_look
from kshot.race.stream import Stream, make_stream, spread
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_text
from kshot.taskmodel.taskmodel import TaskModel

# Above chance on training rows with 16 random demonstrations
TASKS = (
    "classification/trec",
    "classification/sst2",
    "classification/agnews",
    "classification/subj",
    "intent/snips",
    "functions/english_spanish",
    "natural_instructions/evalution_relation",
    "grounding/memotrap_proverb_ending",
    "intent/atis_intent",
    "functions/person_sport",
    "classification/mpqa",
    "classification/dbpedia14",
    "classification/mr",
)
N, SHOTS, N_TEST, N_REST, FOLDS = 100, 16, 200, 40, 5
RECIPES: dict[str, tuple[str, ...]] = {
    "cheap": (
        "majority", "tfidf-lr", "embedding-lr", "zero-shot", "random", "random:contexts=8", "diverse", "all-past",
    ),
    "per-query": ("bm25", "dense"),
    "trained": ("fine-tune:batch=8,lr=3e-4,steps=1", "icl+ft:k=7,lr=3e-4,steps=1"),  # as in distil.py
}  # fmt: skip
LONG = (  # with 400 training rows and those beside
    "classification/trec",
    "classification/sst2",
    "classification/agnews",
    "classification/subj",
    "intent/snips",
    "intent/atis_intent",
    "classification/dbpedia14",
    "classification/mr",
)
WITH_1000 = ("classification/trec", "classification/sst2", "classification/subj", "intent/snips", "classification/mr")


@dataclass(frozen=True)
class Layer:
    """Units that are done one after the other.

    Attributes:
        seed: Of the stream.
        groups: Of recipes.
        tasks: By name.
        n: Examples in a stream.
        limit: Of those that are predicted, by each way to choose them; None is all of them.
    """

    seed: int
    groups: tuple[str, ...]
    tasks: tuple[str, ...] = TASKS
    n: int = N
    limit: int | None = None


LAYERS = {
    "1-first": Layer(0, ("cheap", "per-query", "trained")),
    "2-seed": Layer(1, ("cheap", "per-query", "trained")),
    "3-seed": Layer(2, ("cheap", "per-query", "trained")),
    "4-spread-400": Layer(0, ("cheap", "per-query"), LONG, 400, 100),
    "5-spread-1000": Layer(0, ("cheap", "per-query"), WITH_1000, 1000, 100),
}
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
        Unit(name, task, group, layer.seed)
        for name, layer in LAYERS.items()
        for task, group in product(layer.tasks, layer.groups)
    ]  # fmt: skip


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each recipe that suits the task."""
    whole, layer = Task.load(f"{data}/{unit.task}"), LAYERS[unit.layer]
    shuffled = make_stream(whole, limit=layer.n, seed=unit.seed).examples
    examples, rest = shuffled[: layer.n], shuffled[layer.n : layer.n + N_REST]
    n, limit = len(examples), layer.limit or layer.n
    stream = Stream(examples, tuple(sorted({*range(min(n, limit)), *spread(n, limit)})))
    task = replace(whole, train=examples, test=whole.test[:N_TEST])
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    recipes = [parse_recipe(name, shots=SHOTS) for name in RECIPES[unit.group]]
    return [_Measured(unit, setup, stream, rest, recipe).row() for recipe in recipes if recipe.suits(task)]


@dataclass
class _Measured:
    """A recipe on a task."""

    unit: Unit
    setup: Setup
    stream: Stream
    rest: tuple[Example, ...]
    recipe: Recipe

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.setup.task

    def row(self) -> dict[str, Any]:
        """Predict the stream slice by slice, the folds, test rows and other training rows.

        All of it is what the recipe says, before calibration: the rules calibrate it (`choice_rules.calibrated_row`).
        """
        examples, asked, queries = self.stream.examples, self.stream.asked, self._queries()
        parts = _parts(len(examples)) if LAYERS[self.unit.layer].limit is None else []
        if self.recipe.trains:
            learner = TrainedLearner(self.recipe, self.setup)
            predictions, folds, (at, _) = [], [], parts[-1]
            for i, query in enumerate(queries):
                predictions.append(learner.predict_next(query))
                if i == at:
                    folds = [learner.predict([Query(e, examples[:at]) for e in examples[at:]])]
        else:
            learner = make_learner(self.recipe, self.setup)
            predictions = [p for start, stop in slices(len(queries)) for p in learner.predict(queries[start:stop])]
            folds = [self._fold(part) for part in parts]
        final = AdaptedModel(learner.fit(examples), choice={})
        tested = final.predictions(self.task.test)
        return {
            "task": self.unit.task,
            "kind": self.task.kind,
            "recipe": self.recipe.name,
            "seed": self.unit.seed,
            "n": len(examples),
            "k": self.recipe.k,
            "n_test": len(self.task.test),
            "metric_name": self.task.metrics[0],
            "positions": self.stream.positions,
            "stream": self._scored(asked, predictions),
            "tokens": [round(p.tokens + p.fit_tokens) for p in predictions],
            "query_tokens": [
                float(np.mean([getattr(p, name) for p in tested])) for name in ("prompt_tokens", "tokens")
            ],
            "folds": [self._fold_row(*pair) for pair in zip(parts[-len(folds) :], folds, strict=True)],
            "test": self._scored(self.task.test, tested),
            "again": None if any(p.fit_tokens for p in predictions) else self._again(),
            "rest": self._scored(self.rest, final.predictions(self.rest)) if self.rest else None,
        }

    def _queries(self) -> list[Query]:
        return [replace(q, wants_text=False) for q in self.stream.queries()]

    def _again(self) -> dict[str, Any] | None:
        """Return the second look at the stream."""
        look = second_look(self.recipe, self.setup, self.stream)
        if look is None:
            return None
        learner, queries = look
        predictions, asked = learner.predict(queries), [q.example for q in queries]
        place = {e.id: at for at, e in enumerate(self.stream.examples)}
        return {
            "positions": [place[e.id] for e in asked],
            "tokens": round(sum(p.tokens + p.fit_tokens for p in predictions)),
            **self._scored(asked, predictions),
        }

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
        """Return a fold."""
        start, stop = part
        examples = self.stream.examples[start:stop]
        tokens = round(sum(p.tokens + p.fit_tokens for p in predictions))
        return {"start": start, "stop": stop, "tokens": tokens, **self._scored(examples, predictions)}

    def _scored(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, list[Any]]:
        samples = [
            sample_row(self.task, "", i, e, p) for i, (e, p) in enumerate(zip(examples, predictions, strict=True))
        ]
        return {
            "scores": [None if s["score"] is None else round(s["score"], 4) for s in samples],
            "bits": [round(s["bits"], 3) for s in samples],
            "gold": None if self.task.is_open else [s["candidates"].index(s["gold"]) for s in samples],
            "log_probs": None if self.task.is_open else [_rounded(s["log_probs"]) for s in samples],
        }  # fmt: skip


def _compact(value: Any) -> Any:
    """Return rows in fewer figures; margins are left out, as they follow from the log-probabilities."""
    if isinstance(value, dict):
        return {k: _compact(v) for k, v in value.items() if k != "margins"}
    if isinstance(value, list):
        return [_compact(v) for v in value]
    if isinstance(value, float):
        return int(value) if value == int(value) else round(value, 2)
    return value


def _rounded(log_probs: Sequence[float]) -> list[float]:
    """Return log-probabilities over the candidates in nats, before calibration."""
    values = np.array(log_probs)
    return [round(float(v), 3) for v in values - np.logaddexp.reduce(values)]


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
    planned_recipes = {parse_recipe(name, shots=SHOTS).name for names in RECIPES.values() for name in names}
    rows = [_compact(row) for row in rows if row["recipe"] in planned_recipes]
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)  # not a line for each number
    head = json.dumps({**result, "rows": []}, ensure_ascii=False, indent=1)
    write_text(RESULTS / "choice.json", head.replace('"rows": []', f'"rows": [\n{lines}\n]') + "\n")
    write_text(RESULTS / "choice.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
