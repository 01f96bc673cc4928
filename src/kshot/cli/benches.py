"""Benchmarks by name: those of speed are part of the package, those of quality live in the repository."""

from pathlib import Path
from typing import Any

from kshot.core.duration import parse_seconds
from kshot.core.errors import UserError, did_you_mean, missing_extra
from kshot.core.paths import at_home, path_of
from kshot.core.plugins import own_class, resolve

SPEED = {
    "scoring": "kshot.bench.packed_scoring:run",
    "step": "kshot.bench.step:run",
    "gradients": "kshot.bench.example_gradients:run",
    "large-pool": "kshot.bench.large_pool:run",
    "race": "kshot.bench.simulated_races:run",
    "abstain": "kshot.bench.simulated_abstention:run",
    "overhead": "kshot.bench.overhead:run",
    "llm-feedback": "kshot.bench.llm_feedback:run",
    "steered": "kshot.bench.steered_queries:run",
    "loading": "kshot.bench.loading:run",
    "api": "kshot.bench.api_scores:run",
    "serve": "kshot.bench.served_load:run",
    "labels": "kshot.bench.asked_labels:run",
}
TIMED = {"serve": "10m"}  # those of speed that go on for a time, by default so long
QUALITY = (
    *("weights", "guidance", "selection", "retrieval", "choice", "steering", "contexts"),
    *("compose", "context-use", "spectrum", "distil", "generate", "loops", "suites", "optimum", "label-sets"),
)
WITHOUT_DATA = ("optimum",)  # those of quality that make their own tasks


def speed_benchmark(name: str, model: str, budget: str | None = None, data: str | None = None) -> dict[str, Any]:
    """Run a benchmark of `SPEED` and return what it measured.

    Args:
        name: Of the benchmark.
        model: The model to measure with.
        budget: How long one of `TIMED` goes on.
        data: None, as none is read.

    Raises:
        UserError: An unknown name, a missing extra, data, or a budget for one that has its own end.
    """
    if name not in SPEED:
        raise UserError(f"there is no benchmark '{name}'.{did_you_mean(name, (*SPEED, *QUALITY))}")
    if data is not None:
        raise UserError(f"--data must be left out for the benchmark '{name}', which makes its own tasks; got {data}.")
    if budget is not None and name not in TIMED:
        raise UserError(f"--budget must be left out for the benchmark '{name}', which has its own end; got {budget}.")
    try:
        run = resolve(SPEED[name])
    except ImportError as error:
        raise missing_extra(error.name or "torch", "hf", f"The benchmark '{name}'") from error
    return run(model, seconds=parse_seconds(budget or TIMED[name])) if name in TIMED else run(model)


def quality_benchmark(name: str, *, model: str, data: str | None, budget: str) -> dict[str, Any]:
    """Run `benchmarks/NAME.py` of the repository (a hyphen is an underscore there) and return its summary.

    Raises:
        UserError: No data, or some where none is read, or not in the repository.
    """
    if name in WITHOUT_DATA:
        if data is not None:
            raise UserError(
                f"--data must be left out for the benchmark '{name}', which makes its own tasks; got {data}."
            )
    elif data is None or not path_of(data).is_dir():
        raise UserError(f"--data must be a folder with tasks; got {data}.")
    file = Path("benchmarks") / f"{name.replace('-', '_')}.py"
    if not file.is_file():
        raise UserError(f"The benchmark '{name}' must be run in kshot's repository; there is no {file} here.")
    run = own_class(f"{file}:run")
    return run(data=at_home(data or ""), budget_s=parse_seconds(budget), model=model)
