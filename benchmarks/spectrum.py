"""Do odds get right that are told or shown, and do demonstrations count for more? Tuners `spectrum` and `linked`.

Run by `kshot bench spectrum --data DIR` in the repository. A unit trains one adapter on made-up processes (urns), or on
lessons with labels that mean nothing, made of tasks that are not measured, and measures it beside the model as it was.
Units are kept one by one under kshot-runs/bench-spectrum, so the same command goes on where it stopped; all that is
there goes into docs/results/spectrum.json and docs/results/spectrum.md.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for the two files beside

import numpy as np
from rows import kept_rows, measure_one, restore_units, run_units
from spectrum_page import page, summary

from kshot.core.lessons import Batch
from kshot.core.models import LanguageModel
from kshot.core.seeding import generator
from kshot.core.types import Example, Task
from kshot.engine.language_model import Engine
from kshot.engine.load_model import load_model
from kshot.engine.trained_model import TrainedEngine
from kshot.evaluators.distributions import about, alignment, coverage, drawn, steerability
from kshot.measures.probabilities import jensen_shannon
from kshot.methods.contracts import Tuner
from kshot.methods.processes import make_process
from kshot.methods.tuners.linked import Linked
from kshot.methods.tuners.spectrum import Spectrum
from kshot.store.files import write_json, write_text
from kshot.taskmodel.taskmodel import TaskModel

URNS = ("base", "outputs", "last", "first", "all")  # as it is, and what is learnt of a sequence
SOURCES = ("classification/agnews", "classification/subj", "classification/tweet_irony")  # never measured
TASKS = ("classification/sst2", "classification/trec", "classification/tweet_emotion")
SEEDS = 3
STEPS, LR, SHOWN = 100, 3e-4, 8
N_URNS, N_PEOPLE, N_DRAWN, N_SOURCE, N_TEST = 40, 16, 100, 100, 100
RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Unit:
    """What is done at once: one training and what is measured after it.

    Attributes:
        layer: "urns" or "linked".
        method: One of `URNS`, or "base" and "linked".
    """

    layer: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.layer}-{self.method}-s{self.seed}"

    def file(self, kept: Path) -> Path:
        """Return where its rows are kept."""
        return kept / f"{self.name}.json"


def planned() -> list[Unit]:
    """Return all units, in the order in which they are done."""
    first = [Unit("urns", method, seed) for seed in range(SEEDS) for method in URNS[:3]]
    linked = [Unit("linked", method, seed) for seed in range(SEEDS) for method in ("base", "linked")]
    return [*first, *linked, *(Unit("urns", method, seed) for seed in range(SEEDS) for method in URNS[3:])]


def measure(unit: Unit, data: str, model: str) -> list[dict[str, Any]]:
    """Train and measure a unit, and return its rows."""
    loaded, began = load_model(model), time.perf_counter()
    if unit.layer == "urns":
        tuner = None if unit.method == "base" else Spectrum(made=1.0, kinds="urn", loss=unit.method, lr=LR, batch=4)
        rows = _of_processes(_trained(loaded, tuner, (), unit.seed), unit.seed)
    else:
        tuner = None if unit.method == "base" else Linked(lr=LR, batch=4)
        sources = [Task.load(f"{data}/{name}").train[:N_SOURCE] for name in SOURCES] if tuner else []
        tuned = _trained(loaded, tuner, sources, unit.seed)
        rows = [_of_task(tuned, data, name, k, unit.seed) for name in TASKS for k in (0, SHOWN)]
    about_all = {"method": unit.method, "seed": unit.seed, "steps": STEPS * (tuner is not None), "lr": LR}
    return [about_all | row | {"seconds": time.perf_counter() - began} for row in rows]


def _trained(model: LanguageModel, tuner: Tuner | None, sources: Sequence[Sequence[Example]], seed: int) -> Any:
    """Return the model after `STEPS` steps of a tuner, each on one of the sources; as it is without a tuner."""
    if tuner is None:
        return model
    assert isinstance(model, Engine)
    tuned = TrainedEngine(model, tuner.training, seed=seed)
    task = Task("lessons", "classification", (), labels=("a", "b"))
    asker = TaskModel.for_task(task, tuned)
    for step in range(STEPS):
        rng = generator(seed, "bench-spectrum", step)
        seen = sources[step % len(sources)] if sources else ()
        lessons = tuner.lessons(seen, lambda: (), step=0, rng=rng)
        tuned.learn(Batch([asker.training_text(lesson) for lesson in lessons]))
    return tuned


def _of_processes(model: LanguageModel, seed: int) -> list[dict[str, Any]]:
    rng = generator(seed, "bench-spectrum", "processes")  # the same for all methods
    asker = TaskModel.for_task(Task("processes", "classification", (), labels=("a", "b")), model)
    urns = [make_process("urn", rng=rng, held_out=True) for _ in range(N_URNS)]
    people = [make_process("persona", rng=rng, held_out=True) for _ in range(N_PEOPLE)]
    numbers = make_process("range", rng=rng, held_out=True)
    shown = [(about(asker, one), one.sample(SHOWN + 1, rng=rng)) for one in people]
    uniform = [jensen_shannon(np.full(len(one.outcomes), 1 / len(one.outcomes)), one.probs[0]) for one in urns]
    return [
        {
            "divergence_bits": [round(bits, 5) for bits in alignment(asker, urns).tolist()],
            "uniform_bits": [round(bits, 5) for bits in uniform],
            "steerability_bits": [round(bits, 4) for bits in steerability(shown).mean(axis=0).tolist()],
            "coverage": coverage(drawn(asker, numbers, N_DRAWN, seed=seed), numbers),
        }
    ]


def _of_task(model: LanguageModel, data: str, name: str, k: int, seed: int) -> dict[str, Any]:
    """Return whether each test row is answered rightly after `k` demonstrations, the same for all methods."""
    task = Task.load(f"{data}/{name}")
    asker, test = TaskModel.for_task(task, model), task.test[:N_TEST]
    shown = []
    for query in test:
        rng = generator(seed, "bench-spectrum", name, query.id)
        shown.append(tuple(task.train[i] for i in rng.permutation(len(task.train))[:k]))
    prompts = [asker.prompt(demos, query)[0] for demos, query in zip(shown, test, strict=True)]
    rows = asker.score(prompts, [task.labels] * len(test))
    found = [int(task.labels[int(np.argmax(row))] == query.output) for row, query in zip(rows, test, strict=True)]
    return {"task": name, "k": k, "scores": found}


def run(*, data: str, budget_s: float, model: str = "demo") -> dict[str, Any]:
    """Do what the budget allows, each unit in a process of its own; return `planned`, `done` and the summary."""
    kept, units = Path("kshot-runs/bench-spectrum"), planned()
    kept.mkdir(parents=True, exist_ok=True)
    restore_units([(u.name, asdict(u)) for u in units], kept, RESULTS / "spectrum.json")
    commands = [(u.file(kept), [sys.executable, __file__, u.name, data, model, str(kept)]) for u in units]
    run_units(commands, budget_s=budget_s, done=lambda: print(write(units, kept)["done"], "units", file=sys.stderr))
    return write(units, kept)


def write(units: list[Unit], kept: Path) -> dict[str, Any]:
    """Write spectrum.json and spectrum.md of everything that is kept."""
    (rows, done), out = kept_rows(units, kept), RESULTS
    out.mkdir(parents=True, exist_ok=True)
    result = {"planned": len(units), "done": done, "summary": summary(rows), "rows": rows}
    write_json(out / "spectrum.json", result)
    write_text(out / "spectrum.md", page(result))
    return {key: value for key, value in result.items() if key != "rows"}


if __name__ == "__main__":
    measure_one(planned, measure)
