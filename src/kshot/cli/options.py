"""Options that several verbs share, and what they are turned into."""

from typing import Annotated, Any

import typer

from kshot.cli.config import parse_columns
from kshot.cli.output import stderr

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK", help="Folder; .jsonl, .csv or .parquet file; hf://NAME[:CONFIG][@TRAIN[,TEST]]; builtin:NAME."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="Hub id or folder, demo, gguf:FILE, tiny, scripted."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one line of JSON on stdout.")]
ColumnsOption = Annotated[
    str | None,
    typer.Option("--columns", help="Column names of the file, as input=question,output=answer."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …")]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
LayoutOption = Annotated[
    str | None,
    typer.Option("--layout", help="plain; turns or block of the model's chat template; auto (the default)."),
]
RevisionOption = Annotated[str | None, typer.Option("--revision", help="Commit, branch or tag on the hub.")]


def load_task(task: str, columns: str | None, *, kind_matters: bool = True) -> Any:
    """Load a task and tell what was guessed."""
    from kshot.core.types import Task

    loaded = Task.load(task, columns=parse_columns(columns))
    for note in loaded.notes:
        if kind_matters or not note.startswith("kind is guessed"):
            stderr.print(f"note: {note}", markup=False)
    return loaded
