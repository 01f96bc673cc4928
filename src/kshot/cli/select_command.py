"""The verb `select`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.options import (
    ApiOption,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    KindOption,
    LayoutOption,
    ModelOption,
    RevisionOption,
    SelectorModelOption,
    SkipBadRowsOption,
    TaskArgument,
    TrustOption,
    load_both,
    load_task,
)
from kshot.cli.output import TerminalProgress, guarded, print_result, stderr
from kshot.core.errors import UserError
from kshot.core.paths import path_of


@guarded
def select(
    task: TaskArgument,
    selector: Annotated[str, typer.Option(help="A selector, as random or random:balanced=true.")],
    k: Annotated[int, typer.Option("-k", help="How many demonstrations.")],
    model: ModelOption = None,
    selector_model: SelectorModelOption = None,
    layout: LayoutOption = None,
    query: Annotated[str | None, typer.Option(help="The input to choose for (bm25, dense).")] = None,
    seed: Annotated[int, typer.Option(help="As for adapt.")] = 0,
    form: Annotated[
        str, typer.Option("--format", help="jsonl; prompt or messages, with {input} for a query.")
    ] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="Write it here instead of to stdout.")] = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    skip_bad_rows: SkipBadRowsOption = None,
    gradients: Annotated[
        Path | None, typer.Option(help="Folder that keeps gradients, to choose again without taking them.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Replace kept gradients that are of another model or other data.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    api: ApiOption = None,
) -> None:
    """Choose demonstrations and print them in the prompt's order."""
    from kshot.core.gradient_settings import GradientStore
    from kshot.export.formats import check_fits, formatter
    from kshot.store.files import write_text
    from kshot.verbs.select import select as run_select

    write = formatter(form)  # before a model is loaded
    if rebuild and gradients is None:
        raise UserError("--rebuild must come with --gradients, the folder whose gradients it replaces; leave it out.")
    loaded = load_task(task, columns, kind, skip_bad_rows)
    placing = {"device": device, "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    language_model, asked_model = load_both(model, selector_model, api=api, **placing)
    with TerminalProgress() as progress:
        chosen = run_select(
            loaded,
            selector,
            k,
            model=language_model,
            selector_model=asked_model,
            layout=layout or "auto",
            query=query,
            seed=seed,
            gradient_store=GradientStore(path_of(gradients) if gradients else None, rebuild),
            progress=progress,
            notes=_tell,
        )
    if language_model is not None:
        n_tokens = check_fits(loaded, chosen, language_model, layout=layout or "auto")
        stderr.print(f"{n_tokens} tokens for '{model}'")
    text = write(loaded, chosen)
    if out:
        write_text(path_of(out), text)
        stderr.print(f"demonstrations: {out}")
    else:
        print_result(text)


def _tell(note: Mapping[str, Any]) -> None:
    """Print what a selector has noted of its choice, whatever it is."""
    told = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in note.items())
    stderr.print(", ".join(told))
