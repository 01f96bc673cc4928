"""The verb `study`."""

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kshot.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    RevisionOption,
    TrustOption,
    load_named,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, stdout
from kshot.core.errors import UserError
from kshot.studies import EXPERIMENTS, STUDIES

RECIPES, N, TASKS, SHOTS = "majority,zero-shot,all-past", 32, 4, 16
_FLAGS = {"n": "-n", "trust_remote_code": "--trust-remote-code"}


@guarded
def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help=f"Families of tasks: {', '.join(STUDIES)}. Networks that are trained: {', '.join(EXPERIMENTS)}. Or "
            "./mine.py:Mine. With settings: NAME(setting=value).",
        ),
    ],
    model: ModelOption = None,
    recipes: Annotated[str | None, typer.Option(help=f"Tasks: names with settings; {RECIPES} if not given.")] = None,
    n: Annotated[int | None, typer.Option("-n", help=f"Tasks: training examples of each; {N} if not given.")] = None,
    tasks: Annotated[int | None, typer.Option(help=f"Tasks: how many are drawn; {TASKS} if not given.")] = None,
    shots: Annotated[int | None, typer.Option(help=f"Tasks: most demonstrations; {SHOTS} if not given.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Networks: how long all may take on two cores, about; each has its own usual.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Networks: cells side by side, one core each; all cores if not given.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Networks: the folder that the study is kept in, and goes on from.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Hold recipes against the best answer, or train small networks.

    A family of tasks needs --model: recipes answer tasks of which the best answer is known.
    Networks need none: they are trained from scratch, and what came out stands beside what the paper says.
    The names boolean and prism are both: tasks with --model, and networks without.
    """
    from kshot.verbs.train_networks import room_of_study

    of_tasks = {"model": model, "recipes": recipes, "n": n, "tasks": tasks, "shots": shots, "device": device,
                "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code or None}  # fmt: skip
    of_networks = {"minutes": minutes, "workers": workers, "out": out}
    if room_of_study(name, asks=any(value is not None for value in of_tasks.values())) is EXPERIMENTS:
        _refuse(name, of_tasks, "trains networks of its own and asks no language model")
        _train(name, of_networks, seed, as_json)
    else:
        _refuse(name, of_networks, "is a family of tasks, and trains nothing")
        _ask(name, of_tasks, seed, as_json)


def _refuse(name: str, options: Mapping[str, Any], why: str) -> None:
    given = [_FLAGS.get(option, f"--{option}") for option, value in options.items() if value is not None]
    if given:
        raise UserError(f"{given[0]} must be left out: the study '{name}' {why}.")


def _train(name: str, options: Mapping[str, Any], seed: int, as_json: bool) -> None:
    """Run a study that trains networks."""
    from kshot.verbs.train_networks import experiment

    workers = _cores() if options["workers"] is None else options["workers"]
    with TerminalProgress() as progress:
        done = experiment(name, **{**options, "workers": workers}, seed=seed, progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        _print(done)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print(done: Any) -> None:
    """Print the table, the claims and where the page is."""
    from rich.table import Table

    from kshot.reports.study_page import said
    from kshot.verbs.train_networks import PAGE

    table = Table(*done.findings.columns, box=None, pad_edge=False)
    for row in done.findings.table:
        table.add_row(*map(said, row))
    stdout.print(table)
    for claim in done.findings.claims:
        bar = f"{'below' if claim.below else 'above'} {claim.bar:g}"
        stdout.print(f"{'yes' if claim.holds else 'NO '} {claim.sentence}: {claim.measured:.3f} ({bar})")
    stdout.print(f"page: {done.folder / PAGE}")


def _ask(name: str, options: Mapping[str, Any], seed: int, as_json: bool) -> None:
    """Run a study that is a family of tasks."""
    from kshot.recipes.grammar import parse_recipes
    from kshot.verbs.study import study as run_study

    usual = {"recipes": RECIPES, "n": N, "tasks": TASKS, "shots": SHOTS}
    how: dict[str, Any] = {key: value if options[key] is None else options[key] for key, value in usual.items()}
    STUDIES.build(name)  # these two before a model is loaded
    parse_recipes(how["recipes"], shots=how["shots"])
    loading = {key: options[key] for key in ("device", "dtype", "revision")}
    language_model = load_named(options["model"], **loading, trust_remote_code=bool(options["trust_remote_code"]))
    if language_model is None:
        raise UserError("--model must be given: a hub id or folder, demo, gguf:FILE, tiny or scripted.")
    with TerminalProgress() as progress:
        found = run_study(name, language_model, **how, seed=seed, progress=progress).to_json()
    if as_json:
        print_json(found)
        return
    tasks = f"{found['tasks']} task{'s' * (found['tasks'] > 1)} of {found['n']} examples"
    stdout.print(f"{tasks}; bits an example, in all and in the last quarter")
    for row in found["rows"]:
        line = f"{row['recipe']:30} {row['bits_per_example']:.3f} {row['late_bits']:.3f}"
        stdout.print(f"{line}, {row['above_best']:+.3f} above the best")
