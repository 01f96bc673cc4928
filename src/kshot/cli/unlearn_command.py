"""The verb `unlearn`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from kshot.cli.options import AllowCodeOption, DeviceOption, DtypeOption, JsonOption, MovedModelOption, TrustOption
from kshot.cli.output import TerminalProgress, guarded, print_json, stdout


@guarded
def unlearn(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    forget: Annotated[
        str, typer.Argument(metavar="FORGET", help="A file of rows: questions, and answers to be forgotten.")
    ],
    out: Annotated[str, typer.Option(help="A folder for the model that has forgotten.")],
    retain: Annotated[
        str | None, typer.Option(help="A file of rows that are to stay; by default what the model shows.")
    ] = None,
    settings: Annotated[str, typer.Option(help="Of the training, such as lr=3e-4,steps=10.")] = "",
    model: MovedModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: AllowCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a saved model forget the answers to some questions.

    All others are answered as before.
    """
    from kshot.adapted.folder import load
    from kshot.verbs.unlearn import unlearn as run

    with TerminalProgress() as progress:
        how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "allow_code": allow_code}
        adapted = load(folder, model=model, device=device, dtype=dtype, **how)
        done = run(adapted, forget, retain=retain, settings=settings, out=out, progress=progress)
    if as_json:
        print_json({"model": str(done.folder), **done.report})
    else:
        _print(done.report)
        stdout.print(f"model: {done.folder}")


def _print(report: Mapping[str, Any]) -> None:
    from kshot.verbs.unlearn import GROUPS

    stdout.print(report["metric"])
    for name in GROUPS:
        if (one := report.get(name)) is not None:
            bits = f", {one['bits_before']:.2f} and {one['bits_after']:.2f} bits" if "bits_before" in one else ""
            n = one["n"]
            stdout.print(
                f"  {name.replace('_', ' ')}: {one['before']:.3f} before, {one['after']:.3f} now{bits} ({n} rows)"
            )
    before, after = (report["general"][f"perplexity_{when}"] for when in ("before", "after"))
    stdout.print(f"  plain English: perplexity {before:.2f} before, {after:.2f} now")
