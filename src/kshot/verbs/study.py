"""Hold recipes against the best answer on made-up tasks where that is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.progress import Progress, Silence
from kshot.core.seeding import generator
from kshot.core.types import Task
from kshot.engine.load_model import load_model
from kshot.learners.build import check_suits, make_learner
from kshot.learners.learner import Setup
from kshot.measures.probabilities import code_length_bits, mixed
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipes
from kshot.recipes.recipe import Recipe
from kshot.studies import STUDIES
from kshot.studies.task_family import Study
from kshot.taskmodel.taskmodel import TaskModel

BEST = "best possible"


@dataclass(frozen=True)
class StudyResult:
    """What came out.

    Attributes:
        bits: For each recipe, and for the best answer, bits an example at each place of the stream, the mean over
            tasks, `[n]`.
        n_tasks: How many tasks were drawn.
    """

    bits: Mapping[str, np.ndarray]
    n_tasks: int

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot study --json` prints: bits an example, in all and in the last quarter of the stream."""
        n = len(self.bits[BEST])
        late = slice(n - max(1, n // 4), n)
        rows = [
            {
                "recipe": name,
                "bits_per_example": float(bits.mean()),
                "late_bits": float(bits[late].mean()),
                "above_best": float((bits - self.bits[BEST]).mean()),
            }
            for name, bits in self.bits.items()
        ]
        return {"n": n, "tasks": self.n_tasks, "rows": rows}


def study(
    name: str,
    model: LanguageModel | str | Path,
    *,
    recipes: str = "majority,zero-shot,all-past",
    n: int = 32,
    tasks: int = 4,
    shots: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> StudyResult:
    """Run recipes on tasks of a family, and tell how many bits they are above the best answer.

    Args:
        name: A study with its settings, such as "label-frequencies(labels=4)".
        model: The language model, or its name.
        recipes: With their settings.
        n: Training examples of each task.
        tasks: How many tasks are drawn.
        shots: The most demonstrations of recipes that name no `k`.
        seed: For tasks and recipes.
        progress: Told of the work.

    Raises:
        UserError: An unknown study or recipe, one that the model or the tasks do not suit, or too few examples.
    """
    if n < 2 or tasks < 1:
        raise UserError(f"-n must be 2 or more and --tasks 1 or more; got {n} and {tasks}.")
    family, progress = STUDIES.build(name), progress or Silence()
    chosen = parse_recipes(recipes, shots=min(shots, n))
    language_model = load_model(model) if isinstance(model, str | Path) else model
    rows: dict[str, list[np.ndarray]] = {BEST: [], **{recipe.name: [] for recipe in chosen}}
    for number in range(tasks):
        task = family.sample(n, rng=generator(seed, "study", number))
        rows[BEST].append(_best_bits(family, task, seed))
        for recipe in chosen:
            progress.begin(f"{recipe.name}, task {number + 1} of {tasks}", n)
            rows[recipe.name].append(_bits(recipe, task, language_model, seed, progress))
    return StudyResult({name: np.mean(found, axis=0) for name, found in rows.items()}, tasks)


def _best_bits(family: Study, task: Task, seed: int) -> np.ndarray:
    bits = []
    for query in make_stream(task, limit=len(task.train), seed=seed).queries():
        probabilities = mixed(family.best(task, query.past, query.example.question))
        bits.append(-np.log2(probabilities[task.candidates(query.example).index(query.example.output)]))
    return np.array(bits)


def _bits(recipe: Recipe, task: Task, model: LanguageModel, seed: int, progress: Progress) -> np.ndarray:
    setup = Setup(task, TaskModel.for_task(task, model), seed)
    check_suits(recipe, setup)
    queries = make_stream(task, limit=len(task.train), seed=seed).queries()
    predictions = make_learner(recipe, setup).predict(queries, progress=progress.advance)
    return np.array([code_length_bits(task, q.example.output, p) for q, p in zip(queries, predictions, strict=True)])
