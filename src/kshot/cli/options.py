"""Options that several verbs share, and what they are turned into."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from kshot.cli.output import stderr
from kshot.core.api_settings import is_api
from kshot.core.errors import UserError
from kshot.core.kind_names import kind_of_flag
from kshot.core.paths import path_of
from kshot.core.settings import RunSettings, flag_of, parse_columns, settings_of_a_run

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="Folder; .jsonl, .json, .csv, .tsv or .parquet file; hf://NAME[:CONFIG][@TRAIN[,TEST]]; builtin:NAME.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print exactly one line of JSON on stdout.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be computed, and stop.")]


def _flag(name: str) -> Any:
    """Return the option of a setting of a run."""
    about = next(f.metadata for f in settings_of_a_run() if f.name == name)
    flag = flag_of(name)
    names = f"{flag}/--no-{flag[2:]}" if about["type"] is bool else flag
    return typer.Option(names, help=about["help"])


ModelOption = Annotated[str | None, _flag("model")]
SelectorModelOption = Annotated[str | None, _flag("selector_model")]
LayoutOption = Annotated[str | None, _flag("layout")]
TestOption = Annotated[str | None, _flag("test")]
ColumnsOption = Annotated[str | None, _flag("columns")]
KindOption = Annotated[str | None, _flag("kind")]
SkipBadRowsOption = Annotated[bool | None, _flag("skip_bad_rows")]
MovedModelOption = Annotated[
    str | None, typer.Option("--model", help="The language model, where it is not found any more; by default as saved.")
]
AbstainOption = Annotated[float | None, _flag("abstain")]
DeviceOption = Annotated[str | None, _flag("device")]
DtypeOption = Annotated[str | None, _flag("dtype")]
RevisionOption = Annotated[str | None, _flag("revision")]
OtherDtypeOption = Annotated[
    bool,
    typer.Option("--allow-other-dtype", help="Take the same weights in another precision than when it was adapted."),
]
BudgetOption = Annotated[str | None, _flag("budget")]
PricesOption = Annotated[str | None, _flag("prices")]
ApiOption = Annotated[str | None, _flag("api")]
TrustOption = Annotated[bool, _flag("trust_remote_code")]
AllowCodeOption = Annotated[
    bool, typer.Option("--allow-code", help="Run users' own methods, Python that comes with what is read.")
]


def with_flags_of_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each setting of a run, where it takes them as `**flags`."""
    own = inspect.signature(command)
    parameters = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = []
    for setting in settings_of_a_run():
        kind = (
            setting.metadata["type"] if setting.metadata["type"] in (int, float, bool) else str
        )  # lists as text with commas
        annotation = Annotated[kind | None, _flag(setting.name)]  # None: not given, so that the file may say it
        named.append(
            inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    at = sum(p.default is p.empty for p in parameters)
    parameters = [*parameters[:at], *named, *(p.replace(kind=p.KEYWORD_ONLY) for p in parameters[at:])]
    vars(command)["__signature__"] = own.replace(parameters=parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def load_named(
    model: str | None,
    *,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    api: str | None = None,
) -> Any:
    """Load the language model that was named, or return None where none was.

    Raises:
        UserError: An unknown model, or flags that are for a model where none is named.
    """
    if model is None:
        if device or dtype or revision or trust_remote_code or api:
            raise UserError(
                "--device, --dtype, --revision, --trust-remote-code and --api say how a model is loaded; give --model "
                "too."
            )
        return None
    from kshot.engine.load_model import load_model

    how: Any = {"device": device, "dtype": dtype or RunSettings.dtype, "revision": revision, "api": api}
    return load_model(model, **how, trust_remote_code=trust_remote_code)


def load_both(model: str | None, selector_model: str | None, *, api: str | None, **placing: Any) -> tuple[Any, Any]:
    """Load the model that answers and the one that selectors ask, each by the flags that are for its kind.

    Raises:
        UserError: As `load_named`.
    """
    named = [name for name in (model, selector_model) if name is not None]
    if len({is_api(name) for name in named}) < 2:  # flags of the other kind are refused
        first = load_named(named[0] if named else None, api=api, **placing)
        second = load_named(selector_model, api=api, **placing) if len(named) == 2 else None
        return (first, second) if model is not None or not named else (None, first)
    nothing: Any = dict.fromkeys(placing)
    made = [load_named(n, api=api, **nothing) if is_api(n) else load_named(n, **placing) for n in named]
    return made[0], made[1]


def load_task(task: str, columns: str | None, kind: Any, skip_bad_rows: bool | None, *, learnt: Any = None) -> Any:
    """Load a task and tell what was guessed."""
    from kshot.tasks.load import load_task

    how: Any = {"columns": parse_columns(columns), "kind": kind, "skip_bad_rows": bool(skip_bad_rows)}
    loaded = load_task(task, **how, learnt=learnt)
    for note in loaded.notes:
        stderr.print(f"note: {note}")
    return loaded


def load_asked(
    task: str, columns: str | None, skip_bad_rows: bool | None, *, known: Any, kind: str | None = None
) -> Any:
    """Load the task whose test rows a saved model is asked; of a single file these are all rows.

    Args:
        task: Its path.
        columns: As in `load_task`.
        skip_bad_rows: As in `load_task`.
        known: The model's task: labels and kind of a file are the model's, as it need not show all of them.
        kind: What the rows of a folder or a dataset are, if that is said.

    Raises:
        UserError: `kind` is not the model's, or as `load_task`.
    """
    if kind is not None and kind_of_flag(kind) != known.kind:
        raise UserError(f"--kind must be {known.kind}, as the model's is; got {kind}; leave it out.")
    is_file = path_of(task).is_file()
    loaded = load_task(task, columns, known.kind if is_file else kind, skip_bad_rows, learnt=known)
    if not is_file:
        return loaded
    own = {"choices_in_input": loaded.choices_in_input, "letter_form": loaded.letter_form}
    return replace(known, name=loaded.name, test=loaded.train, **own)


def placing(
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    allow_code: bool,
    allow_other_dtype: bool,
) -> dict[str, Any]:
    """Return how an adapted model and its language model are loaded."""
    how = {"device": device, "dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    return how | {"allow_code": allow_code, "allow_other_dtype": allow_other_dtype}


def abstaining(adapted: Any, precision: float | None) -> Any:
    """Return the model with another threshold, if one is wanted."""
    return adapted if precision is None else adapted.abstaining(precision)
