"""The verb `generate`."""

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.options import (
    ApiOption,
    BudgetOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KindOption,
    LayoutOption,
    PricesOption,
    RevisionOption,
    SkipBadRowsOption,
    TaskArgument,
    TrustOption,
    load_task,
)
from kshot.cli.output import TerminalProgress, print_json, print_result, resumable, stderr, tell_paid


@resumable
def generate(
    task: TaskArgument,
    model: Annotated[str, typer.Option(help="The language model that writes.")],
    method: Annotated[str, typer.Option(help="A generator, as rephrase or ensemble:voters=5.")] = "rephrase",
    n: Annotated[int | None, typer.Option("-n", help="How many, at most; by default as the generator says.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new file of rows; by default they are printed.")] = None,
    budget: BudgetOption = None,
    prices: PricesOption = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    layout: LayoutOption = None,
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
    """Let the model make more training examples.

    Each says where it comes from, and none is in test.
    """
    from kshot.core.json_text import to_json
    from kshot.core.settings import RunSettings
    from kshot.verbs.generate import generate as run

    loaded = load_task(task, columns, kind, skip_bad_rows)
    with TerminalProgress() as progress:
        done = run(
            loaded,
            model,
            method=method,
            n=n,
            out=out,
            budget=budget,
            prices=prices,
            seed=seed,
            layout=layout or "auto",
            device=device,
            dtype=dtype or RunSettings.dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            api=api,
            progress=progress,
        )
    if as_json:
        print_json(done.to_json())
        return
    stderr.print(done.in_words)
    tell_paid(done)
    if not done.examples:
        stderr.print("note: nothing was made that can be used; a larger --model, or another --method, may write more")
    if done.out:
        stderr.print(f"rows: {done.out}")
    else:
        print_result("".join(to_json(row) + "\n" for row in done.rows))
