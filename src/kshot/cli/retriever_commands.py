"""The verbs `retriever …`: learning a retriever from the language model's feedback, stage by stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    RevisionOption,
    TrustOption,
    load_named,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, resumable, stdout
from kshot.core.errors import UserError

app = typer.Typer(
    help="Learn from a language model which examples help it. The stages are candidates, score, reward and distill; "
    "train runs all.",
    no_args_is_help=True,
)

TasksArgument = Annotated[list[str], typer.Argument(metavar="TASK...", help="One retriever is learnt for all of them.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The folder of the run.")]
OutOption = Annotated[str, typer.Option(help="The run's folder; the same one again goes on.")]
HoldOutOption = Annotated[str | None, typer.Option("--hold-out", help="Names of tasks from which nothing is learnt.")]
SettingsOption = Annotated[
    str, typer.Option(help="As encoder=…,queries=200,candidates=16,label_rule=true,other_task_rule=true,mixed=false.")
]
SeedOption = Annotated[int, typer.Option(help="For every random choice.")]
IterationOption = Annotated[int, typer.Option(min=1, help="Which round.")]


@app.command()
@resumable
def candidates(
    tasks: TasksArgument,
    out: OutOption,
    hold_out: HoldOutOption = None,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    iteration: IterationOption = 1,
) -> None:
    """Draw the examples that the language model is asked about.

    They are found by words, later by the last retriever.
    """
    with TerminalProgress() as progress:
        found = _started(tasks, out, hold_out, settings, seed, progress).candidates(iteration)
    stdout.print(f"{len(found)} queries with {len(found[0].documents)} candidates each")


@app.command()
@resumable
def score(
    run: RunArgument,
    model: ModelOption = None,
    layout: LayoutOption = None,
    iteration: IterationOption = 1,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Ask how probable each query's answer is after its candidates."""
    language_model = _model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    with TerminalProgress() as progress:
        found = _opened(run, progress).score(language_model, iteration, layout=layout or "auto")
    stdout.print(f"{sum(len(row.scores) for row in found)} scores")


@app.command()
@guarded
def reward(run: RunArgument, iteration: IterationOption = 1) -> None:
    """Make of the scores what the retriever learns from.

    With target=reward a reward model learns them first.
    """
    with TerminalProgress() as progress:
        found = _opened(run, progress).reward(iteration)
    stdout.print(f"{len(found)} queries to learn from")


@app.command()
@guarded
def distill(run: RunArgument, iteration: IterationOption = 1) -> None:
    """Train the retriever on what `reward` has made."""
    with TerminalProgress() as progress:
        folder = _opened(run, progress).distill(iteration)
    stdout.print(f"retriever: {folder}")


@app.command()
@resumable
def train(
    tasks: TasksArgument,
    out: OutOption,
    model: ModelOption = None,
    iterations: Annotated[int, typer.Option(help="Rounds of all stages.")] = 2,
    hold_out: HoldOutOption = None,
    settings: SettingsOption = "",
    seed: SeedOption = 0,
    layout: LayoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Run all stages, some rounds, and tell where the retriever is."""
    from kshot.verbs.retriever import check_iterations

    check_iterations(iterations)
    with TerminalProgress() as progress:
        run = _started(tasks, out, hold_out, settings, seed, progress)
        language_model = _model(
            model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
        )
        folder = run.train(language_model, iterations=iterations, layout=layout or "auto")
    stdout.print(f"retriever: {folder}\nuse it as: --recipes llm-r:retriever={out}")


@app.command()
@guarded
def evaluate(
    run: RunArgument,
    model: ModelOption = None,
    against: Annotated[
        str, typer.Option(help="Selectors for each query, separated by commas; names only.")
    ] = "random,bm25,dense",
    k: Annotated[int, typer.Option("-k", help="Demonstrations.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many test rows of a task.")] = None,
    layout: LayoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the retriever on test rows.

    Measured are one demonstration alone, recall of the model's own best, and k together.
    """
    from kshot.reports.retrieval_table import by_category

    names = ["random:fresh=true" if name == "random" else name for name in against.split(",") if name]
    language_model = _model(model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    with TerminalProgress() as progress:
        opened = _opened(run, progress)
        found = opened.evaluate(language_model, [*names, "llm-r"], k=k, limit=limit, layout=layout)
    rows = [
        {
            "task": task.name,
            "kind": task.kind,
            "held_out": task.name in opened.held_out,
            "selector": name,
            **r.summary(),
        }
        for task, name, r in found
    ]
    if as_json:
        print_json(rows)
        return
    for line in by_category(rows):
        stdout.print(line)


def _started(tasks: list[str], out: str, hold_out: str | None, settings: str, seed: int, progress: Any) -> Any:
    from kshot.verbs.retriever import RetrieverRun, parse_settings

    held_out = [name.strip() for name in hold_out.split(",")] if hold_out else []
    how: Any = {"settings": parse_settings(settings), "seed": seed, "progress": progress}
    return RetrieverRun.start(Path(out), tasks, held_out=held_out, **how)


def _opened(run: str, progress: Any) -> Any:
    from kshot.verbs.retriever import RetrieverRun

    return RetrieverRun.open(run, progress=progress)


def _model(name: str | None, **placing: Any) -> Any:
    if name is None:
        raise UserError("--model must be given: a hub id or folder, demo, gguf:FILE, tiny or scripted.")
    return load_named(name, **placing)
