"""The verb `init`."""

import re
from typing import Annotated, Any

import typer

from kshot.cli.options import ColumnsOption, JsonOption, KindOption, SkipBadRowsOption, TestOption
from kshot.cli.output import guarded, print_json, stdout
from kshot.core.settings import parse_columns


@guarded
def init(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder for the task.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Where its rows are: a .jsonl, .json, .csv, .tsv or .parquet file, also .gz; a folder, also of "
            "texts in folders of their labels; hf://NAME[:CONFIG][@TRAIN[,TEST]]; builtin:NAME.",
        ),
    ],
    test: TestOption = None,
    columns: ColumnsOption = None,
    kind: KindOption = None,
    order: Annotated[
        str | None, typer.Option(help="Labels with an order, as low,medium,high: the lowest first.")
    ] = None,
    skip_bad_rows: SkipBadRowsOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a task folder that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a task folder from rows in any form.

    Its task.json says what was guessed, for you to correct.

    It holds train.jsonl, test.jsonl where there are test rows, and task.json, and is the same task as SOURCE: kshot
    init reviews --from reviews.csv, then kshot adapt reviews.
    """
    from kshot.verbs.new_task import CARD
    from kshot.verbs.new_task import init as run

    named: Any = kind
    labels = [part.strip() for part in re.split("[,<]", order)] if order else None
    done = run(
        folder,
        source,
        test=test,
        columns=parse_columns(columns),
        kind=named,
        order=labels,
        skip_bad_rows=bool(skip_bad_rows),
        overwrite=overwrite,
    )
    if as_json:
        print_json(done.to_json())
        return
    files = ", ".join(f"{split}.jsonl ({n} rows)" for split, n in done.n_rows.items())
    stdout.print(f"task: {done.folder}: {files}, {CARD}")
    stdout.print("guessed, and how to correct it:")
    for sentence in done.guessed:
        stdout.print(f"- {sentence}")
    stdout.print(f"Correct {CARD} where it is wrong; then: kshot validate {done.folder}")
