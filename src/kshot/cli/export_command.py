"""The verb `export`."""

from typing import Annotated, Any

import typer

from kshot.cli.options import (
    AllowCodeOption,
    ApiOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KindOption,
    MovedModelOption,
    OtherDtypeOption,
    RevisionOption,
    TrustOption,
    load_asked,
)
from kshot.cli.output import TerminalProgress, guarded, print_json, stdout, tell_paid
from kshot.core.paths import path_of


@guarded
def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="An adapted model or a finished run.")],
    to: Annotated[str, typer.Option(help="messages, prompt, dspy, langchain, peft, vllm or gguf-lora.")],
    out: Annotated[str, typer.Option(help="A new folder for the files.")],
    check: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Rows that target and kshot are both asked; by default those of the run."),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many of them; 0 asks nothing.")] = 20,
    context: Annotated[
        int | None, typer.Option(help="Which of several averaged contexts is written, from 1: a target has one.")
    ] = None,
    gguf: Annotated[
        str | None, typer.Option(help="The base as a GGUF file, to score gguf-lora with; by default as adapted.")
    ] = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    model: MovedModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    allow_code: AllowCodeOption = False,
    allow_other_dtype: OtherDtypeOption = False,
    api: ApiOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an adapted model for other software.

    That is then asked the same, and the difference is told.
    """
    from kshot.adapted.folder import load, saved_task
    from kshot.export.targets import target_of
    from kshot.verbs.export import asked_in_run
    from kshot.verbs.export import export as run_export

    target_of(to, gguf=path_of(gguf) if gguf else None)  # before a model is loaded
    known, rows = saved_task(folder), None
    if check:
        rows = load_asked(check, columns, None, known=known, kind=kind)
    how: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision, "api": api}
    allowed: dict[str, Any] = {"allow_code": allow_code, "allow_other_dtype": allow_other_dtype}
    adapted = load(folder, model=model, trust_remote_code=trust_remote_code, **how, **allowed)
    with TerminalProgress() as progress:
        checked: Any = rows or asked_in_run(folder, adapted) or None
        done = run_export(adapted, to, out, check=checked, limit=limit, context=context, gguf=gguf, progress=progress)
    tell_paid(adapted)
    if as_json:
        print_json(done.record)
        return
    for sentence in done.in_words:
        stdout.print(sentence)
    stdout.print(f"export: {out}")
