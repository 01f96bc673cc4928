"""`kshot`: the verbs. Nothing heavy is imported before a verb needs it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli import notes_commands, retriever_commands
from kshot.cli.benches import QUALITY, SPEED, WITHOUT_DATA, quality_benchmark, speed_benchmark
from kshot.cli.config import read_settings
from kshot.cli.demo_command import demo
from kshot.cli.distil_command import distil
from kshot.cli.evaluate_command import evaluate
from kshot.cli.export_command import export
from kshot.cli.generate_command import generate
from kshot.cli.init_command import init
from kshot.cli.options import (
    AbstainOption,
    AllowCodeOption,
    ApiOption,
    ColumnsOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    JsonOption,
    KindOption,
    LayoutOption,
    ModelOption,
    MovedModelOption,
    OtherDtypeOption,
    RevisionOption,
    SkipBadRowsOption,
    TaskArgument,
    TestOption,
    TrustOption,
    abstaining,
    load_named,
    placing,
    with_flags_of_settings,
)
from kshot.cli.output import (
    failed,
    guarded,
    print_json,
    print_result,
    resumable,
    stderr,
    stdout,
    tell_paid,
)
from kshot.cli.report_command import report
from kshot.cli.saliency_command import saliency
from kshot.cli.select_command import select
from kshot.cli.serve_command import serve
from kshot.cli.streams import TERMINATED, take_over
from kshot.cli.study_command import study
from kshot.cli.unlearn_command import unlearn
from kshot.core.errors import KshotError, RunInterruptedError, UserError
from kshot.core.paths import path_of
from kshot.core.settings import parse_columns
from kshot.core.termination import TerminatedError
from kshot.core.version import __version__

MAX_BAD_ROWS = 20  # that `validate` prints; --json has all

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
@resumable
@with_flags_of_settings
def adapt(
    task: TaskArgument,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags override.")] = None,
    dry_run: DryRunOption = False,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
    **flags: Any,
) -> None:
    """Try recipes on a task, choose the best, hand over the model."""
    settings = read_settings(task, config, flags, allow_code=allow_code)
    from kshot.cli.live import RaceProgress, print_run
    from kshot.cli.planned import print_plan
    from kshot.race.ranking import compared_by
    from kshot.reports.trackers import tracker
    from kshot.verbs.adapt import run
    from kshot.verbs.prepare import prepare

    trackers = [tracker(settings.track)] if settings.track else []
    prepared = prepare(settings)
    if dry_run:
        print_plan(prepared, as_json=as_json)
        return
    by = compared_by(prepared.task, settings.choose_by)
    with RaceProgress(prepared.task.metrics[0], by) as progress:
        done = run(prepared, progress=progress, trackers=trackers)
    if as_json:
        print_json(done.to_json())
    else:
        print_run(done, prepared.task.metrics[0], by)


app.command()(init)
app.command()(select)
app.command()(report)
app.command()(serve)
app.command()(evaluate)
app.command()(study)
app.command()(export)
app.command()(distil)
app.command()(generate)
app.command()(saliency)
app.command()(unlearn)
app.add_typer(retriever_commands.app, name="retriever")
app.add_typer(notes_commands.app, name="notes")


@app.command()
@guarded
def predict(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    inputs: Annotated[
        str | None,
        typer.Argument(
            help="A file of rows, in a format and with columns as the task's; a text, an input a line; stdin."
        ),
    ] = None,
    abstain: AbstainOption = None,
    columns: ColumnsOption = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="With --json: leave out rows that cannot be used, and say which.")
    ] = False,
    model: MovedModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    api: ApiOption = None,
    allow_code: AllowCodeOption = False,
    allow_other_dtype: OtherDtypeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Answer inputs with an adapted model, one answer a line.

    Where it abstains the answer is "unsure".
    """
    from kshot.adapted.folder import load, saved_task
    from kshot.measures.abstention import UNSURE
    from kshot.tasks.bad_rows import left_out
    from kshot.tasks.inputs import read_inputs
    from kshot.tasks.rows import BadRow

    if skip_bad_rows and not as_json:
        raise UserError(
            "--skip-bad-rows needs --json, where each answer has the id of its row: answers that come one a line "
            "would not stand beside their rows any more; add --json."
        )
    bad = list[BadRow]() if skip_bad_rows else None
    examples, notes = read_inputs(inputs, sys.stdin.buffer, parse_columns(columns), task=saved_task(folder), bad=bad)
    for note in (*notes, *left_out(bad or ())):
        stderr.print(f"note: {note}")
    how: dict[str, Any] = {
        "api": api,
        **placing(device, dtype, revision, trust_remote_code, allow_code, allow_other_dtype),
    }
    adapted = abstaining(load(folder, model=model, **how), abstain)
    predictions = adapted.predictions(examples)
    tell_paid(adapted)
    if as_json:
        skipped = {} if bad is None else {"left_out": [row.to_json() for row in bad]}
        print_json({"predictions": [_answered(p, adapted) for p in predictions], **skipped})
        return
    n_cut = sum(p.cut_off for p in predictions)
    if n_cut:
        stderr.print(f"{n_cut} of {len(predictions)} answers came to no end and were cut")
    for p in predictions:
        answer = UNSURE if adapted.is_unsure(p) else str(p.answer)
        print_result(" ".join(answer.splitlines()) + "\n")  # one line, whatever breaks lines


def _answered(p: Any, adapted: Any) -> dict[str, Any]:
    from kshot.core.label_sets import answer_of

    answer = answer_of(adapted.task, p) if adapted.task.is_multi_label else p.answer
    row = {"id": p.example_id, "answer": answer, "probs": dict(zip(p.candidates, p.probs, strict=True))}
    doubt = {} if p.disagreement is None else {"disagreement": p.disagreement}
    if adapted.abstention:
        doubt["unsure"] = adapted.is_unsure(p)
    if p.stated is not None:
        doubt["stated"] = p.stated
    if p.found:
        doubt["found"] = p.found
    return row | ({"cut_off": p.cut_off} if adapted.task.is_open else {}) | doubt


@app.command()
@guarded
def validate(
    task: TaskArgument,
    model: ModelOption = None,
    layout: LayoutOption = None,
    test: TestOption = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    skip_bad_rows: SkipBadRowsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    api: ApiOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a task; with --model, show its first prompt as well.

    With --model the tokens of inputs are counted, too.
    """
    from kshot.core.control_tokens import without_marks
    from kshot.core.label_sets import shown_by_name
    from kshot.core.script import UsualWording
    from kshot.measures.samples import check_metrics
    from kshot.prompts.layout import layout_for
    from kshot.tasks.load import load_task as load
    from kshot.tasks.rows import BadRowsError
    from kshot.tasks.validate import validate as run_validate

    named: Any = kind
    try:
        loaded = load(task, test=test, columns=parse_columns(columns), kind=named, skip_bad_rows=bool(skip_bad_rows))
    except BadRowsError as error:
        if as_json:
            print_json({"bad_rows": [row.to_json() for row in error.rows]})
        raise UserError(error.told(MAX_BAD_ROWS, "\n" if len(error.rows) > 1 else " ", "--json has all")) from None
    language_model = load_named(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code, api=api
    )
    if layout and not language_model:
        raise UserError("--layout says how prompts for a model are laid out; give --model too, or leave --layout out.")
    check_metrics(loaded)
    written = layout_for(language_model, (layout or "auto") if language_model else "plain")
    some = shown_by_name(loaded.train[1:3], loaded.labels) if loaded.is_multi_label else loaded.train[1:3]
    script = UsualWording().compose(loaded, some, loaded.train[0].question)
    report = run_validate(loaded, language_model, marks=written.marks(script) if language_model else ())
    if as_json:
        ordered = {"ordered": True} if loaded.ordered else {}
        print_json(report.to_json() | ordered | {"notes": list(loaded.notes)})
        return
    labels = f", labels {(' < ' if loaded.ordered else ', ').join(report.labels)}" if report.labels else ""
    labels = (f", {report.n_unlabelled} unlabelled" if report.n_unlabelled else "") + labels
    stdout.print(f"{loaded.name}: {report.kind}, {report.n_train} train, {report.n_test} test{labels}")
    for note in loaded.notes:
        stdout.print(f"note: {note}")
    for problem in report.problems:
        stdout.print(f"problem: {problem}")
    if report.n_tokens:
        stdout.print("tokens of an input: least {}, median {}, most {}".format(*report.n_tokens))
        stdout.print("\nthe prompt for the first row, after two demonstrations:\n" + "-" * 60)
        stdout.print(without_marks(written.write(script).text))
        stdout.print("-" * 60)
        if loaded.is_multi_label:
            stdout.print(
                f"of each of the {len(loaded.labels)} labels it is then read how likely it is named next, which says "
                "how probable it is that the label is right; composer=yes-no asks for yes or no to each"
            )


@app.command()
@guarded
def recipes(
    name: Annotated[str | None, typer.Argument(help="One of them: what it does, and its settings.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known recipes and the methods for their slots.

    Of one that is named, its settings are told as well.
    """
    from kshot.recipes.catalogue import describe_methods, describe_one, describe_recipes

    if name is not None:
        found = describe_one(name)
        if as_json:
            print_json(found)
        else:
            stdout.print("\n\n".join(map(_at_length, found)))
            stdout.print("Those of every recipe, such as k and order: docs/tasks.md; of training: docs/weights.md")
        return
    rows, methods = describe_recipes(), describe_methods()
    if as_json:
        print_json([{key: value for key, value in row.items() if key != "summary"} for row in (*rows, *methods)])
        return
    for row in rows:
        _describe(row["name"], row)
    stdout.print("\nThese work with others, such as random:composer=wording or average(bm25,zero-shot):\n")
    for row in methods:
        _describe(f"{row['slot']}={row['name']}" if row["slot"] != "combiner" else f"{row['name']}(…)", row)
    stdout.print("\nSettings of one of them: kshot recipes NAME")


def _describe(name: str, row: Mapping[str, Any]) -> None:
    """Print a name with a line on it, or with the line below where the name is long."""
    stdout.print(f"{name:14} {row['summary']}" if len(name) <= 14 else f"{name}\n{'':14} {row['summary']}")
    if row["source"]:
        stdout.print(f"{'':14} {row['source']}", style="dim")


def _at_length(row: Mapping[str, Any]) -> str:
    """Return what is said of one method, with its settings."""
    settings = ", ".join(f"{key}={value or 'none'}" for key, value in row["settings"].items()) or "none of its own"
    head = row["name"] if row["slot"] is None else f"{row['name']} ({row['slot']})"
    return f"{head}: {row['about']}\n\nSettings, as they are by default: {settings}"


app.command()(demo)


@app.command()
@guarded
def merge(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    out: Annotated[str, typer.Option(help="A new folder for the whole model.")],
    model: MovedModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: AllowCodeOption = False,
    allow_other_dtype: OtherDtypeOption = False,
) -> None:
    """Work trained weights into the model, as transformers loads it."""
    from kshot.adapted.folder import load
    from kshot.models.model_files import has_tokenizer

    how = placing(device, dtype, revision, trust_remote_code, allow_code, allow_other_dtype)
    load(folder, model=model, **how).save_merged(out)
    if not has_tokenizer(path_of(out)):
        stderr.print("note: the model has no tokenizer of its own to write, without which none loads it")
    stdout.print(f"model: {out}")


@app.command()
@guarded
def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join((*SPEED, *QUALITY))}.")],
    model: Annotated[str, typer.Option(help="The model to measure with.")] = "demo",
    data: Annotated[
        str | None,
        typer.Option(help=f"Folder with tasks, for {', '.join(n for n in QUALITY if n not in WITHOUT_DATA)}."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Start no unit of work after this time, by default 150m; for serve, of load, 10m."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of kshot, or the quality of its methods.

    Quality is measured in the repository, for hours.
    """
    if name in QUALITY:
        result = quality_benchmark(name, model=model, data=data, budget=budget or "150m")
    else:
        result = speed_benchmark(name, model, budget, data)
    if as_json:
        print_json(result)
        return
    for key, value in result.items():
        stdout.print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


def main() -> None:
    """Run the command line."""
    take_over()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except KshotError as error:  # by what click itself prints
        sys.exit(failed(str(error), error.exit_code))
    except TerminatedError:  # before a command has begun, which says itself what it has kept
        sys.exit(failed("terminated; nothing was computed yet.", TERMINATED))
    except KeyboardInterrupt:
        sys.exit(failed("interrupted; nothing was computed yet.", RunInterruptedError.exit_code))


if __name__ == "__main__":
    main()
