"""What averaging over contexts brings: one, two, four and eight of them for four ways of choosing, on test rows.

Run by `kshot bench contexts --data DIR` in the repository. A unit of work (a task, some recipes, a draw of the training
set) is done in a process of its own and kept under kshot-runs/bench-contexts, so the same command goes on where it
stopped; all that is there goes into docs/results/contexts.json and docs/results/contexts.md. Where contexts are shared
by all queries, each of eight answers alone, and their answers are averaged in groups of one, two, four and eight, so
that a group of one is the mean over eight draws; of a retriever, whose first context is in its own order, the first
one, two, four and eight are averaged.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from contexts_page import page, summary
from rows import kept_rows, measure_one, restore_units, run_units

from kshot.core.types import Example, Prediction, Query, Task
from kshot.engine.load_model import load_model
from kshot.learners.answering import answering
from kshot.learners.build import make_learner
from kshot.learners.learner import Setup
from kshot.learners.prompted import PromptLearner
from kshot.measures.averages import MEANS, averaged
from kshot.measures.samples import sample_row
from kshot.prompts.fitting import prompt_tokens
from kshot.race.stream import make_stream
from kshot.recipes.grammar import parse_recipe
from kshot.recipes.recipe import Recipe
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

TASKS = (
    "classification/trec",
    "functions/english_spanish",
    "grounding/memotrap_proverb_ending",
    "classification/sst2",
    "natural_instructions/evalution_relation",
    "classification/subj",
    "intent/snips",
    "functions/person_sport",
    "classification/mr",
    "classification/agnews",
)
POOL, K, N_TEST, N_TEST_ALONE, N_WRITTEN, N_SCREEN = 200, 8, 200, 50, 100, 60
NUMBERS, SEEDS = (1, 2, 4, 8), (0, 1, 2)
MOST_SHOWN, MOST_PROMPT = (64, 32, 16, 8), 1000  # of all-past: examples, and about how many tokens
# Said in full, whatever the defaults are
GROUPS: dict[str, tuple[str, ...]] = {
    "shared": ("zero-shot", "random", "all-past"),
    "matching": ("gradient-matching:candidates=16,queries=64",),
    "bm25": ("bm25",),
    "controls": ("random:balanced=true", "best-of-n:n=16,queries=64"),
}
# One draw of the ten tasks takes about an hour of one core with shared contexts, as much again with matching
LAYERS = (
    ("shared", 0),
    ("matching", 0),
    ("bm25", 0),
    *((group, seed) for seed in SEEDS[1:] for group in ("shared", "matching")),
    *(("bm25", seed) for seed in SEEDS[1:]),
    *(("controls", seed) for seed in SEEDS),
)
RESULTS, KEPT = Path("docs/results"), Path("kshot-runs/bench-contexts")


@dataclass(frozen=True)
class Unit:
    """What is done at once: a group of recipes on one task, with one draw of the training set."""

    layer: str
    task: str
    group: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.layer}-{self.task.replace('/', '-')}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    return [
        Unit(f"{i:02}-{group}-{seed}", task, group, seed)
        for i, (group, seed) in enumerate(LAYERS, 1)
        for task in TASKS
    ]  # fmt: skip


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Run a unit and return a row for each recipe, number of contexts and mean."""
    whole = Task.load(f"{data}/{unit.task}")
    stream = make_stream(whole, limit=len(whole.train), seed=unit.seed)
    pool, rest = stream.examples[:POOL], stream.examples[POOL : POOL + N_SCREEN]
    test = whole.test[: N_TEST_ALONE if unit.group == "bm25" else N_TEST]
    task = replace(whole, train=pool, test=test)
    setup = Setup(task, TaskModel.for_task(task, load_model(model)), unit.seed)
    rows = []
    for name in GROUPS[unit.group]:
        recipe = _of_length(parse_recipe(name, shots=K), setup)
        numbers = NUMBERS if recipe.part("selector") else NUMBERS[:1]
        members, fit = _asked(replace(recipe, contexts=numbers[-1]), setup, test)
        for m in numbers:
            some = [own[:m] for own in members] if unit.group == "bm25" else members
            rows += [_row(unit, setup, recipe, some, m, mean) | fit for mean in _means(m)]
        print(unit.name, name, f"{rows[-1]['metric']:.3f}", file=sys.stderr, flush=True)
        if name == "random" and rest:
            screened, _ = _asked(recipe, replace(setup, task=replace(task, test=rest)), rest)
            rows.append(_row(unit, setup, recipe, screened, 1, MEANS[0], rows_of=rest) | {"recipe": "screen"})
    return rows


def _of_length(recipe: Recipe, setup: Setup) -> Recipe:
    """Return all-past with as many examples as make a prompt of about `MOST_PROMPT` tokens; others as they are."""
    if recipe.name != "all-past":
        return recipe
    model, pool = setup.model, setup.task.train
    assert model is not None
    lengths = {n: prompt_tokens(model.compose(pool[:n], pool[-1]), model.model) for n in MOST_SHOWN}
    n = next((n for n in MOST_SHOWN if lengths[n] <= MOST_PROMPT), MOST_SHOWN[-1])
    return replace(parse_recipe(f"all-past:limit={n}", shots=K), name="all-past")


def _asked(recipe: Recipe, setup: Setup, rows: Sequence[Example]) -> tuple[list[list[Prediction]], dict[str, float]]:
    """Return what is said of each row after each context, and the tokens that it took to choose them."""
    assert setup.model is not None
    before = setup.model.ledger.cost.tokens
    fitted = make_learner(recipe, setup).fit(setup.task.train)
    fit_tokens = setup.model.ledger.cost.tokens - before
    queries = [Query(e, fitted.pool, wants_text=i < N_WRITTEN) for i, e in enumerate(rows)]
    return cast(PromptLearner, answering(fitted)).of_each_context(queries), {"fit_tokens": fit_tokens}


def _means(m: int) -> tuple[str, ...]:
    return MEANS if m > 1 else MEANS[:1]


def _row(
    unit: Unit,
    setup: Setup,
    recipe: Recipe,
    members: Sequence[Sequence[Prediction]],
    m: int,
    mean: str,
    *,
    rows_of: Sequence[Example] = (),
) -> dict[str, Any]:
    """Return the row of answers averaged in groups of `m`: each example's score and bits, the mean over groups."""
    task, scores, bits, firsts, costs, doubts = setup.task, [], [], [], [], []
    for example, own in zip(rows_of or task.test, members, strict=True):
        groups = [own[i : i + m] for i in range(0, len(own), m)]
        found = [sample_row(task, "", 0, example, averaged(group, mean=mean, is_open=task.is_open)) for group in groups]
        bits.append(float(np.mean([r["bits"] for r in found])))
        if found[0]["score"] is not None:
            scores.append(float(np.mean([r["score"] for r in found])))
            firsts.append(found[0]["score"])
            doubts.append(found[0]["disagreement"] or 0.0)
        costs.append(
            [sum(getattr(p, key) for p in own) * m / len(own) for key in ("prompt_tokens", "tokens", "seconds")]
        )
    prompt, run, seconds = np.mean(costs, axis=0)
    return {
        "task": unit.task,
        "kind": task.kind,
        "recipe": recipe.name,
        "group": unit.group,
        "seed": unit.seed,
        "k": recipe.k,
        "contexts": m,
        "mean": mean,
        "n_test": len(bits),
        "metric_name": task.metrics[0],
        "metric": float(np.mean(scores)),
        "first": float(np.mean(firsts)),
        "bits_per_example": float(np.mean(bits)),
        "disagreement": float(np.mean(doubts)),
        "majority": _majority(task, rows_of or task.test),
        "prompt_tokens": float(prompt),
        "run_tokens": float(run),
        "query_ms": 1000 * float(seconds),
        "shown": max(len(p.demonstrations) for own in members for p in own),
        "scores": [round(x, 4) for x in scores],
        "bits": [round(x, 3) for x in bits],
    }


def _majority(task: Task, rows: Sequence[Example]) -> float:
    """Return the share of rows that have the most frequent output of the training examples."""
    outputs = [e.output for e in task.train]
    most = max(sorted(set(outputs)), key=outputs.count)
    return sum(e.output == most for e in rows) / len(rows)


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    kept, units = KEPT / model.replace("/", "-"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "contexts.json")
    commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in units]
    done = lambda: print(write(kept)["done"], "units", file=sys.stderr)  # noqa: E731
    run_units(commands, budget_s=budget_s, done=done, workers=1, threads=1)
    return write(kept)


def write(kept: Path) -> dict[str, Any]:
    """Write contexts.json and contexts.md of everything that is kept."""
    rows, done = kept_rows(planned(), kept)
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(planned()), "done": done, "summary": summary(rows), "rows": rows}
    write_json(RESULTS / "contexts.json", result)
    write_text(RESULTS / "contexts.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
