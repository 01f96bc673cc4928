"""`kshot`: the verbs. Nothing heavy is imported before a verb needs it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli import retriever_commands
from kshot.cli.benches import QUALITY, SPEED, quality_benchmark, speed_benchmark
from kshot.cli.config import parse_columns, read_config, recipe_names
from kshot.cli.options import (
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    RevisionOption,
    TaskArgument,
    load_task,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, stderr, stdout
from kshot.cli.report_command import report
from kshot.cli.select_command import select
from kshot.core.budget import parse_budget
from kshot.core.errors import UserError
from kshot.core.version import __version__

app = typer.Typer(
    help="Ten to a thousand labelled examples and one language model: where should the examples go?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
@guarded
def adapt(
    task: TaskArgument,
    model: ModelOption = None,
    recipes: Annotated[
        str | None, typer.Option(help="Names with settings; all (the default) are those that are cheap.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Most demonstrations in a prompt (16, or all if fewer).")] = None,
    budget: Annotated[str | None, typer.Option(help="What the run may take: 90s, 10m, 2h or 500k-tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the order and every random choice (0).")] = None,
    limit: Annotated[int | None, typer.Option(help="Most examples that are predicted (300).")] = None,
    out: Annotated[str | None, typer.Option(help="Run folder; the same one again resumes.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags override.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be computed, and stop.")] = False,
    columns: ColumnsOption = None,
    layout: LayoutOption = None,
    selector_model: Annotated[
        str | None, typer.Option("--selector-model", help="The model that selectors ask, if another than --model.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Another task, whose gradients guide recipes that train.")
    ] = None,
    race: Annotated[
        bool | None, typer.Option("--race/--no-race", help="Drop recipes that fall clearly behind (the default).")
    ] = None,
    choose_by: Annotated[
        str | None, typer.Option("--choose-by", help="metric (the default) or bits, as expected at the end.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="cheap-queries or cheap-fit, among those that are nearly as good.")
    ] = None,
    track: Annotated[str | None, typer.Option(help="Also log the finished run to: mlflow.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try the recipes on a task, choose the best, and hand over the adapted model."""
    flags = {
        "model": model,
        "recipes": recipes,
        "shots": shots,
        "budget": budget,
        "seed": seed,
        "limit": limit,
    }
    flags |= {"out": out, "columns": columns, "device": device, "dtype": dtype, "revision": revision}
    flags |= {"layout": layout, "selector_model": selector_model, "source": source, "track": track}
    flags |= {"race": race, "choose_by": choose_by, "prefer": prefer}
    settings = read_config(config, flags)
    if settings.model is None:
        raise UserError("--model must be given: a hub id or folder, demo, gguf:FILE, tiny or scripted.")
    parse_budget(settings.budget)  # here too, before a model is loaded
    from kshot.cli.live import RaceProgress
    from kshot.core.types import Task
    from kshot.engine.load_model import load_model
    from kshot.reports.trackers import tracker
    from kshot.verbs.adapt import adapt as run_adapt
    from kshot.verbs.plan import plan
    from kshot.verbs.prepare import check_choice, prepare

    check_choice(settings.choose_by, settings.prefer)
    trackers = [tracker(settings.track)] if settings.track else []
    loaded = Task.load(task, columns=parse_columns(settings.columns))
    shared: Any = {
        "recipes": recipe_names(settings.recipes),
        "shots": settings.shots,
        "seed": settings.seed,
        "limit": settings.limit,
    }
    other = Task.load(settings.source) if settings.source else None
    prepare(loaded, **shared, with_source=other is not None)  # before a model is loaded
    shared["layout"] = settings.layout
    language_model = load_model(
        settings.model, device=settings.device, dtype=settings.dtype, revision=settings.revision
    )
    judge = load_model(settings.selector_model) if settings.selector_model else None
    if dry_run:
        _print_plan(plan(loaded, language_model, **shared, selector_model=judge, source=other), as_json)
        return
    choosing: Any = {"race": settings.race, "choose_by": settings.choose_by, "prefer": settings.prefer}
    with RaceProgress(loaded.metrics[0]) as progress:
        run = run_adapt(
            loaded,
            language_model,
            **shared,
            **choosing,
            out=settings.out,
            budget=settings.budget,
            selector_model=judge,
            source=other,
            progress=progress,
            trackers=trackers,
        )
    if as_json:
        print_json(run.to_json())
    else:
        _print_run(run, loaded.metrics[0])


def _print_plan(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"plan": rows})
        return
    for row in rows:
        cost = f"{row['predictions']} predictions, {row['forward_tokens']} forward tokens"
        cost += f", {row['training_steps']} steps of training" if row["training_steps"] else ""
        cost += f", about {row['minutes']:.1f} min"
        stdout.print(f"{row['recipe']}: {cost if row['predictions'] else 'not applicable to this task and model'}")
    tokens, minutes = (sum(row[key] for row in rows) for key in ("forward_tokens", "minutes"))
    stdout.print(f"all: {tokens} forward tokens, about {minutes:.1f} min here if no recipe is dropped")


def _print_run(run: Any, metric: str) -> None:
    from kshot.reports.leaderboard import leaderboard_table

    stdout.print(leaderboard_table(run.leaderboard, metric=metric, chosen=run.chosen))
    stdout.print(f"\n{run.in_words}", markup=False)
    stdout.print(f"model:  {run.folder / 'best'}   (kshot predict {run.folder})", markup=False)
    stdout.print(f"report: {run.folder / 'report.html'}", markup=False)


app.command()(select)
app.command()(report)
app.add_typer(retriever_commands.app, name="retriever")


@app.command()
@guarded
def predict(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    inputs: Annotated[
        str | None,
        typer.Argument(help="A .jsonl, .csv or .parquet file with the task's columns; a text, an input a line; stdin."),
    ] = None,
    columns: ColumnsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer inputs with an adapted model: one answer a line."""
    from kshot.adapted.folder import load, saved_task
    from kshot.tasks.inputs import read_inputs

    mapping = parse_columns(columns)
    examples, notes = read_inputs(inputs, sys.stdin.buffer, mapping, task=saved_task(folder))
    for note in notes:
        stderr.print(f"note: {note}", markup=False)
    adapted = load(folder)
    predictions = adapted.predictions(examples)
    if as_json:
        print_json({"predictions": [_answered(p, adapted.task.is_open) for p in predictions]})
        return
    n_cut = sum(p.cut_off for p in predictions)
    if n_cut:
        stderr.print(f"{n_cut} of {len(predictions)} answers came to no end and were cut", markup=False)
    for p in predictions:
        sys.stdout.write(str(p.answer).replace("\n", " ") + "\n")


def _answered(p: Any, is_open: bool) -> dict[str, Any]:
    row = {"id": p.example_id, "answer": p.answer, "probs": dict(zip(p.candidates, p.probs, strict=True))}
    return row | ({"cut_off": p.cut_off} if is_open else {})


@app.command()
@guarded
def evaluate(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    task: TaskArgument,
    limit: Annotated[int | None, typer.Option(help="Only the first so many test rows.")] = None,
    columns: ColumnsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure an adapted model on the test rows of a task; of a single file, on all rows."""
    from kshot.adapted.folder import load

    is_file = Path(task).is_file()
    loaded = load_task(task, columns, kind_matters=not is_file)
    with TerminalProgress() as progress:
        adapted = load(folder)
        if is_file:  # labels and kind are the model's: a file of test rows need not show all of them
            loaded = replace(adapted.task, name=loaded.name, test=loaded.train)
        result = adapted.evaluate(loaded, limit=limit, progress=progress)
    if as_json:
        print_json(result)
        return
    stdout.print(
        f"{result['metric_name']} {result['metric']:.3f} ({result['low']:.3f} - {result['high']:.3f}), "
        f"{result['bits_per_example']:.2f} bits/example, on {result['n']} test rows"
    )


@app.command()
@guarded
def validate(
    task: TaskArgument,
    model: ModelOption = None,
    layout: LayoutOption = None,
    columns: ColumnsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a task; with --model also count tokens and show the first prompt."""
    from kshot.core.types import Task
    from kshot.measures.samples import check_metrics
    from kshot.tasks.validate import validate as run_validate

    loaded = Task.load(task, columns=parse_columns(columns))
    language_model = None
    if model is not None:
        from kshot.engine.load_model import load_model

        language_model = load_model(model)
    check_metrics(loaded)
    report = run_validate(loaded, language_model)
    if as_json:
        print_json(report.to_json())
        return
    labels = f", labels {', '.join(report.labels)}" if report.labels else ""
    stdout.print(f"{loaded.name}: {report.kind}, {report.n_train} train, {report.n_test} test{labels}", markup=False)
    for note in loaded.notes:
        stdout.print(f"note: {note}", markup=False)
    for problem in report.problems:
        stdout.print(f"problem: {problem}", markup=False)
    if report.n_tokens:
        from kshot.core.script import UsualWording
        from kshot.prompts.layout import layout_for

        stdout.print("tokens of an input: least {}, median {}, most {}".format(*report.n_tokens))
        shown = loaded.train[1:3]
        stdout.print("\nthe prompt for the first row, behind two demonstrations:\n" + "-" * 60)
        script = UsualWording().compose(loaded, shown, loaded.train[0].question)
        stdout.print(layout_for(language_model, layout or "auto").write(script).text, markup=False)
        stdout.print("-" * 60)


@app.command()
@guarded
def recipes(as_json: JsonOption = False) -> None:
    """List the known recipes."""
    from kshot.recipes.recipe import describe_recipes

    rows = describe_recipes()
    if as_json:
        print_json([{key: value for key, value in row.items() if key != "summary"} for row in rows])
        return
    for row in rows:
        stdout.print(f"{row['name']:14} {row['summary']}", markup=False)
        if row["source"]:
            stdout.print(f"{'':14} {row['source']}", markup=False, style="dim")


@app.command()
@guarded
def demo(out: Annotated[str, typer.Option(help="Run folder.")] = "kshot-runs/demo") -> None:
    """Adapt the packaged Gemma-3-270M to real BBC headlines and predict unseen ones."""
    from kshot.cli.live import RaceProgress
    from kshot.core.types import Task
    from kshot.engine.load_model import load_model
    from kshot.verbs.adapt import adapt as run_adapt

    task = Task.load("builtin:bbc-headlines")
    with RaceProgress(task.metrics[0]) as progress:
        run = run_adapt(task, load_model("demo"), limit=40, out=out, progress=progress)
    _print_run(run, task.metrics[0])
    unseen = task.test[:6]
    stdout.print("\nunseen headlines:")
    for example, prediction in zip(unseen, run.best.predictions(unseen), strict=True):
        mark = "right" if prediction.answer == example.output else f"wrong, it is {example.output}"
        share = max(prediction.probs)
        stdout.print(f"  {example.input}\n    {prediction.answer} ({share:.0%}; {mark})", markup=False)
    stdout.print(f"\nrun folder: {run.folder.resolve()}", markup=False)


@app.command()
@guarded
def merge(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    out: Annotated[str, typer.Option(help="A new folder for the whole model.")],
) -> None:
    """Work trained weights into the language model, and write it as transformers loads it."""
    from kshot.adapted.folder import load

    load(folder).save_merged(out)
    stdout.print(f"model: {out}", markup=False)


@app.command()
@guarded
def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join((*SPEED, *QUALITY))}.")],
    model: Annotated[str, typer.Option(help="The model to measure with.")] = "demo",
    data: Annotated[str | None, typer.Option(help=f"Folder with tasks, for {', '.join(QUALITY)}.")] = None,
    budget: Annotated[str, typer.Option(help="Start no unit of work after this time.")] = "150m",
    as_json: JsonOption = False,
) -> None:
    """Measure kshot on this machine: its speed, or the quality of methods (in the repository, for hours)."""
    if name in QUALITY:
        result = quality_benchmark(name, model=model, data=data, budget=budget)
    else:
        result = speed_benchmark(name, model)
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        stdout.print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}", markup=False)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
