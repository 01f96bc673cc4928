"""`kshot report`: the page of a run, or two runs compared."""

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.options import JsonOption
from kshot.cli.output import guarded, print_json, stdout
from kshot.core.paths import path_of


@guarded
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; it may be unfinished.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="RUN2", help="Another one, to compare the two on the same examples.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write report.html of a run, or compare two runs.

    Two are compared in what they chose, on the examples that both predicted.
    """
    run, other = path_of(run), path_of(other) if other else None
    from kshot.reports.html import compare_runs, write_report

    if other is None:
        file = write_report(run)
        if as_json:
            print_json({"report": str(file)})
        else:
            stdout.print(f"report: {file}")
        return
    found = compare_runs(run, other)
    if as_json:
        print_json(found)
        return
    what = f"{found['first']} of {run} against {found['second']} of {other}"
    stdout.print(f"{what}, on {found['n']} examples:")
    for key, name, factor in (("score", f"{found['metric_name']}, points", 100), ("bits", "bits an example", 1)):
        gap = found[key]
        said = "clear" if gap["clear"] else "no difference found"
        if gap["low"] is None:
            said = "from 1 example, too few for an interval" if gap["n"] else "no example has answers of both"
        else:
            said = f"{factor * gap['low']:+.2f} to {factor * gap['high']:+.2f}, paired; {said}"
        stdout.print(f"  {name}: " + (f"{factor * gap['difference']:+.2f} ({said})" if gap["n"] else said))
