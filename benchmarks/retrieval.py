"""Retrievers that learn from the model's feedback (LLM-R) against BM25, dense search and random draws.

Run by `kshot bench retrieval --data DIR` in the repository; writes docs/results/retrieval.json and .md. Units of work
(scores of a task's candidates, a training, a retriever on a task) are done in processes of their own and kept under
kshot-runs/bench-retrieval; the same command goes on where it stopped. One retriever is trained for all tasks but the
one held out. Training, and every choice of a setting, sees training rows alone; test rows are only measured.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside

from retrieval_feedback import HELD_OUT, SEED, SETTINGS, TASKS, kept, score, task_of
from retrieval_page import page, summary
from rows import kept_rows, restore_units, run_units

from kshot.cli.output import TerminalProgress
from kshot.engine.load_model import load_model
from kshot.evaluators.retrieval import RetrievalScores, evaluate_retrieval
from kshot.recipes.grammar import parse_recipe
from kshot.retrieval.corpus import read_pools
from kshot.retrieval.learn import distil, targets
from kshot.retrieval.saved import fingerprint, save_retriever
from kshot.store.files import write_json, write_text
from kshot.store.scores import SqliteStore
from kshot.taskmodel.taskmodel import TaskModel

K = 8
BASELINES = ("random:fresh=true", "bm25", "dense")
VARIANTS = {  # how a retriever is trained, beside the default
    "reward": {"target": "reward"},
    "reward-without-answer": {"target": "reward", "reward_sees_answer": False},
    "contrastive-only": {"target": "none"},
    "label-rule": {"label_rule": True},
}
RESULTS = Path("docs/results")
FEEDBACK = RESULTS / "retrieval-feedback.jsonl"  # a unit's scores a line: what costs most, for other machines


@dataclass(frozen=True)
class Unit:
    """What is done at once: scores of a task's candidates, a training, or a selector on a task.

    Attributes:
        kind: "feedback", "train" or "measure".
        what: A task, the name of a training, or a selector; `llm-r-NAME` is the retriever of a training.
        task: Of a measurement.
    """

    layer: str
    kind: str
    what: str
    task: str = ""

    @property
    def name(self) -> str:
        """Its file's name."""
        return "-".join(filter(None, (self.layer, self.kind, self.what, self.task))).replace("/", "-").replace(":", "-")

    def file(self, folder: Path) -> Path:
        """Return where it is kept."""
        return folder / "units" / f"{self.name}.json"


def planned() -> list[list[Unit]]:
    """Return all units in phases: each phase needs those before it."""
    tested = (*TASKS, HELD_OUT)

    def measured(layer: str, what: str) -> list[Unit]:
        return [Unit(layer, "measure", what, task) for task in tested]

    first = [Unit("1-first", "feedback", task) for task in TASKS]
    baselines = [Unit("1-first", "measure", name, task) for task in tested for name in BASELINES]
    again = [Unit("2-again", "feedback", task) for task in TASKS]
    trained = [Unit("3-ablations", "train", name) for name in VARIANTS]
    return [
        first,
        [Unit("1-first", "train", "1"), *baselines],
        measured("1-first", "llm-r-1"),
        again,
        [Unit("2-again", "train", "2")],
        measured("2-again", "llm-r-2"),
        trained,
        list(chain.from_iterable(measured("3-ablations", f"llm-r-{name}") for name in VARIANTS)),
    ]


def folder_of(training: str, folder: Path) -> Path:
    """Return where the retriever of a training is kept."""
    return folder / "retrievers" / training


def feedback(unit: Unit, data: str, model: str, folder: Path) -> dict[str, Any]:
    """Score a task's candidates: found by words, or by the retriever of the first training."""
    retriever = folder_of("1", folder) if unit.layer == "2-again" else None
    task = task_of(data, unit.what)
    store = SqliteStore(folder / f"{task.name}.sqlite")
    rows = score(task, load_model(model).with_store(store), retriever)
    store.close()
    return {"feedback": rows}


def train(unit: Unit, data: str, model: str, folder: Path) -> dict[str, Any]:
    """Train a retriever on the scores of all tasks: of the first iteration, or of both."""
    settings = replace(SETTINGS, **VARIANTS.get(unit.what, {}))
    pools = read_pools([task_of(data, name) for name in TASKS])
    ranked = []
    with TerminalProgress() as progress:
        for layer in ("1-first", *(("2-again",) if unit.what == "2" else ())):
            files = [Unit(layer, "feedback", name).file(folder) for name in TASKS]
            found = [row for file, pool in zip(files, pools.values(), strict=True) for row in kept(file, pool)]
            ranked += targets(found, pools, settings, seed=SEED, progress=progress)
        encoder = distil(ranked, pools, settings, seed=SEED, progress=progress)
    save_retriever(
        encoder, folder_of(unit.what, folder), {"encoder": settings.encoder}, [fingerprint(row.query) for row in ranked]
    )
    return {"queries": len(ranked)}


def measure(unit: Unit, data: str, model: str, folder: Path) -> dict[str, Any]:
    """Measure a selector on a task's test rows."""
    task = task_of(data, unit.task)
    store = SqliteStore(folder / f"{task.name}.sqlite")
    asked = TaskModel.for_task(task, load_model(model).with_store(store))
    name = unit.what
    if name.startswith("llm-r-"):
        name = f"llm-r:retriever={folder_of(name.removeprefix('llm-r-'), folder)}"
    found = evaluate_retrieval(asked, parse_recipe(name, shots=K), task.train, task.test, seed=SEED)
    store.close()
    return {"rows": [_row(unit, found, len(task.train))]}


def _row(unit: Unit, found: RetrievalScores, n: int) -> dict[str, Any]:
    lists = {name: getattr(found, name).round(5).tolist() for name in ("one_shot", "recall", "scores")}
    same = found.same_label.mean()
    value, low, high = found.metric
    return {
        "task": unit.task,
        "category": TASKS.get(unit.task, "held out"),
        "recipe": unit.what.partition(":")[0],
        "seed": SEED,
        "n": n,
        "k": K,
        "n_test": len(found.scores),
        "metric_name": found.metric_name,
        "metric": value,
        "low": low,
        "high": high,
        "one_shot_nats": found.one_shot.mean(),
        "recall_of_best": found.recall.mean(),
        "same_label": None if same != same else same,
        **lists,
    }


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    import time

    folder, phases, deadline = Path("kshot-runs/bench-retrieval"), planned(), time.monotonic() + budget_s
    (folder / "units").mkdir(parents=True, exist_ok=True)
    units = [unit for phase in phases for unit in phase]
    measured = [u for u in units if u.kind == "measure"]
    restore_units([(u.name, asdict(u)) for u in measured], folder / "units", RESULTS / "retrieval.json")
    for line in FEEDBACK.read_text("utf-8").splitlines() if FEEDBACK.exists() else ():
        file = Unit(**(found := json.loads(line))["unit"]).file(folder)
        if not file.exists():
            write_json(file, found)
    for phase in phases:
        files = [unit.file(folder) for unit in phase]
        commands = [(f, [sys.executable, __file__, u.name, data, model, str(folder)])
                    for f, u in zip(files, phase, strict=True)]  # fmt: skip
        left = deadline - time.monotonic()
        run_units(commands, budget_s=left, done=lambda: print(write(measured, folder)["done"], file=sys.stderr))
        if not all(file.exists() for file in files):
            break
    return write(measured, folder)


def write(units: Sequence[Unit], folder: Path) -> dict[str, Any]:
    """Write the results of all measurements that are done, and return them without the rows."""
    rows, n_done = kept_rows(units, folder)
    found = {"planned": len(units), "done": n_done, "summary": summary(rows)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, sort_keys=True) for row in rows)
    head = json.dumps(found, indent=1, sort_keys=True).removesuffix("\n}")
    write_text(RESULTS / "retrieval.json", f'{head},\n "rows": [\n{lines}\n]\n}}\n')
    write_text(RESULTS / "retrieval.md", page(found, rows))
    scored = [unit.file(folder) for phase in planned() for unit in phase if unit.kind == "feedback"]
    kept = [json.loads(file.read_text("utf-8")) for file in scored if file.exists()]
    write_text(FEEDBACK, "".join(json.dumps(unit, separators=(",", ":")) + "\n" for unit in kept))
    return found


def main() -> None:
    """Do the unit that the command line names, and keep what came out."""
    name, data, model, kept_in = sys.argv[1:]
    (unit,) = (u for phase in planned() for u in phase if u.name == name)
    do = {"feedback": feedback, "train": train, "measure": measure}[unit.kind]
    write_json(unit.file(Path(kept_in)), {"unit": asdict(unit), **do(unit, data, model, Path(kept_in))})
    print(f"{name}: done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
