"""`kshot saliency`: which words of a question the answer rests on."""

import sys
from typing import Annotated, Any

import typer

from kshot.cli.options import AllowCodeOption, ColumnsOption, JsonOption, MovedModelOption, TrustOption
from kshot.cli.output import guarded, print_json, print_result, stdout
from kshot.core.errors import UserError
from kshot.core.paths import path_of
from kshot.core.settings import parse_columns
from kshot.core.types import Example
from kshot.store.run_folder import MANIFEST

SHOWN, MOST = 5, 100  # words that an answer rests on, and characters of a question, in a terminal


@guarded
def saliency(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    inputs: Annotated[
        str | None, typer.Argument(help="A file of rows or of lines, or - for stdin; by default a run's own examples.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most examples of the run, those that it got wrong first.")] = 20,
    columns: ColumnsOption = None,
    model: MovedModelOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell which words of a question the answer rests on.

    Of a run's own examples the report shows it, too.
    """
    from kshot.adapted.folder import load, saved_task
    from kshot.reports.html import write_report
    from kshot.reports.saliency_record import asked_first, write_saliency
    from kshot.reports.saved_record import read_record
    from kshot.tasks.inputs import read_inputs

    task, run = saved_task(folder), path_of(folder)
    if inputs is not None:
        examples, _ = read_inputs(inputs, sys.stdin.buffer, parse_columns(columns), task=task)
    elif not (run / MANIFEST).exists():
        raise UserError(
            f"{folder} must be a run, whose examples are known; it is a model alone. Name a file of INPUTS."
        )
    elif task.kind == "multiple_choice":
        raise UserError(
            "The record of a run does not keep choices, so its examples cannot be asked again. Name a file of INPUTS."
        )
    else:
        rows = asked_first(read_record(run), limit)
        examples = [Example(e["input"], e["output"], e["id"], e["context"]) for e in rows]
    how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_code": allow_code}
    adapted = load(folder, model=model, **how)
    found = adapted.rests_on(examples)
    records = [one.record for one in found]
    if as_json:
        print_json({"saliency": records})
    else:
        for example, one in zip(examples, found, strict=True):
            asked = " ".join(example.input.split())
            print_result(asked if len(asked) <= MOST else f"{asked[:MOST]}…")
            most = ", ".join(f"{text} {value:.2f}" for text, value in one.most(SHOWN))
            print_result(f"\n  {' '.join(one.answer.split())}: {most}\n")
    if inputs is None:  # told already, where it cannot be kept
        write_saliency(run, records, adapted.choice.get("recipe"))
        report = write_report(run)
        if not as_json:
            stdout.print(f"report: {report}")
