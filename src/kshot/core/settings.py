"""The settings of a run, each declared once: flags, file, defaults and the repeat command derive from them."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from kshot.core.api_settings import check_model_name, is_api, parse_api
from kshot.core.budget import parse_budget
from kshot.core.errors import UserError
from kshot.core.kind_names import kind_of_flag
from kshot.core.models import LanguageModel
from kshot.core.prices import check_priced, parse_prices
from kshot.core.types import KINDS, Kind, Rows, Task

ChooseBy = Literal["metric", "bits"]
Prefer = Literal["cheap-queries", "cheap-fit"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_PLACING = ("device", "dtype", "revision", "trust_remote_code")  # of models that are loaded here


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read "input=question,output=answer".

    Raises:
        UserError: Something else.
    """
    if text is None:
        return None
    pairs = [piece.partition("=") for piece in re.split(r",(?=[^,=]*=)", text)]  # a column's name may have a comma
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise UserError(f"--columns must look like input=question,output=answer; got '{text}'.")
    return {left.strip(): right.strip() for left, _, right in pairs}


def flag_of(name: str) -> str:
    """Return the flag of a setting: "--choose-by" of "choose_by"."""
    return f"--{name.replace('_', '-')}"


def among(choices: Any) -> Callable[[str, Any], None]:
    """Return the check that a setting is None or one of the values of a `Literal`."""
    known = get_args(choices)
    words = " or ".join(filter(None, (", ".join(known[:-1]), known[-1])))

    def check(name: str, value: Any) -> None:
        if value is not None and value not in known:
            raise UserError(f"{flag_of(name)} must be {words}; got '{value}'.")

    return check


def at_least(least: int) -> Callable[[str, Any], None]:
    """Return the check that a setting is not below `least`."""

    def check(name: str, value: Any) -> None:
        if value < least:
            raise UserError(f"{flag_of(name)} must be {least} or more; got {value}.")

    return check


def check_precision(name: str, value: Any) -> None:
    """Refuse a share of answers that have to be right which nothing can promise, or anything.

    Raises:
        UserError: It is no number between 0 and 1, without both.
    """
    flag = flag_of(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(
            f"{flag} must be a number between 0 and 1, the share of answers that have to be right; got {value}. Give "
            "one such as 0.9."
        )
    if value == 1:
        raise UserError(
            f"{flag} must be below 1, as no number of examples shows that an answer is never wrong; got {value}. Give "
            "one such as 0.95."
        )
    if value == 0:
        raise UserError(
            f"{flag} must be above 0, as answers that may all be wrong need no threshold; got {value}. Give one such "
            "as 0.9, or leave it out to have everything answered."
        )


def or_none(check: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    """Return the check of a setting that may be left out."""

    def checked(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return checked


def readable(parse: Callable[[Any], object]) -> Callable[[str, Any], None]:
    """Return the check that a setting can be read by `parse`, which says what is wrong with it."""

    def check(name: str, value: Any) -> None:
        parse(value)

    return check


def _setting(
    default: Any,
    help: str,
    *,
    type: Any = str,
    check: Callable[[str, Any], None] | None = None,
    repeats: bool = True,
) -> Any:
    """Return the field of a setting.

    Args:
        default: What holds where nothing is said.
        help: Its line in `--help`.
        type: What a flag and the file take; Python may be given an object instead.
        check: Called with name and value; raises UserError.
        repeats: Whether it belongs to the command that makes the run again.
    """
    return field(default=default, metadata={"help": help, "type": type, "check": check, "repeats": repeats})


@dataclass(frozen=True)
class RunSettings:
    """Everything that a run of `kshot adapt` is told.

    `kshot.adapt` describes the settings for users. A task or a model is a name, or the object that Python has already.
    """

    task: Task | str | Path | Rows
    model: LanguageModel | str | Path | None = _setting(
        None, "Hub id or folder, demo, gguf:FILE, tiny, scripted, openai:NAME, openai:URL#NAME.", check=check_model_name
    )
    recipes: str | Sequence[str] = _setting(
        "all", "Names with settings; all (the default) are those that are cheap.", type=str | list[str]
    )
    shots: int | None = _setting(None, "Most demonstrations in a prompt (16, or all if fewer).", type=int)
    seed: int = _setting(0, "For the order and every random choice (0).", type=int)
    limit: int = _setting(300, "Most examples that are predicted, spread over all (300).", type=int, check=at_least(1))
    budget: str | None = _setting(
        None, "What the run may take: 90s, 10m, 2h, 500k-tokens or 2usd.", check=readable(parse_budget)
    )
    prices: str | None = _setting(
        None, "USD for a million tokens of an API: in=0.15,out=0.6,cached=0.075.", check=readable(parse_prices)
    )
    out: str | Path | None = _setting(None, "Run folder; the same one again resumes.", repeats=False)
    test: "str | Path | Rows | None" = _setting(None, "A file of test rows, where the task is a file of rows too.")
    columns: str | None = _setting(
        None, "Column names of the file, such as input=question,output=answer.", check=readable(parse_columns)
    )
    kind: Kind | None = _setting(None, f"What the task is, whatever its rows look like: {', '.join(KINDS)}.")
    skip_bad_rows: bool = _setting(False, "Go on without rows that cannot be used, at most half of a file.", type=bool)
    layout: str = _setting(
        "auto", "plain; turns or block of the model's chat template; messages of an API; auto (the default)."
    )
    selector_model: LanguageModel | str | Path | None = _setting(
        None,
        "The model that selectors ask, and that teaches (by=selector-model), if not --model.",
        check=check_model_name,
    )
    source: Task | str | Path | None = _setting(None, "Another task, whose gradients guide recipes that train.")
    inputs: "Sequence[Any] | str | Path | None" = _setting(
        None, "More inputs, without answers, for recipes that can use them: a file as for `kshot predict`."
    )
    race: bool = _setting(True, "Drop recipes that fall clearly behind (the default).", type=bool)
    choose_by: ChooseBy = _setting(
        "metric", "metric (the default) or bits, as expected at the end.", check=among(ChooseBy)
    )
    prefer: Prefer | None = _setting(
        None, "cheap-queries or cheap-fit, among those that are nearly as good.", check=among(Prefer)
    )
    abstain: float | None = _setting(
        None,
        "Share of answers that have to be right, such as 0.95; others are unsure.",
        type=float,
        check=or_none(check_precision),
    )
    track: str | None = _setting(None, "Also log the finished run to: mlflow.", repeats=False)
    device: str | None = _setting(None, "cpu, cuda, …")
    dtype: str = _setting("auto", "auto, float32, bfloat16 or float16.", check=among(Dtype))
    revision: str | None = _setting(None, "Commit, branch or tag on the hub.")
    api: str | None = _setting(
        None, "How models behind an API are asked, such as max-tokens=8192,concurrency=16.", check=readable(parse_api)
    )
    trust_remote_code: bool = _setting(False, "Run Python code that comes with the model's files.", type=bool)

    def __post_init__(self):
        if self.model is None:
            raise UserError(
                "--model must be given: a hub id or folder, demo, gguf:FILE, tiny, scripted or openai:NAME."
            )
        for name in ("model", "selector_model"):
            if isinstance(value := getattr(self, name), Path):
                object.__setattr__(self, name, str(value))
        if not isinstance(self.recipes, str):
            object.__setattr__(self, "recipes", ",".join(self.recipes))
        if self.kind is not None:
            object.__setattr__(self, "kind", kind_of_flag(self.kind))
        for known in settings_of_a_run():
            if check := known.metadata["check"]:
                check(known.name, getattr(self, known.name))
        check_priced(self.budget, self.prices)

    @property
    def recipe_names(self) -> str:
        """The recipes as one text, however they were given."""
        assert isinstance(self.recipes, str)
        return self.recipes

    def placing(self, name: str | Path) -> dict[str, Any]:
        """Return how a model of the run is loaded: the arguments of `load_model` beside its name."""
        names = ("api",) if is_api(name) else _PLACING
        return {name: getattr(self, name) for name in names}

    def check_placing(self, others: Sequence[str] = ()) -> None:
        """Refuse what is said of models of a kind of which none is named.

        Args:
            others: The names of models that recipes name and that can be placed: a revision is not of these.

        Raises:
            UserError: It would be said of no model.
        """
        own = [model for model in (self.model, self.selector_model) if isinstance(model, str | Path)]
        named = [*own, *others]
        remote = [model for model in named if is_api(model)]
        if self.api is not None and not remote:
            raise UserError("--api is for models behind an API, as openai:NAME; none is named. Leave it out.")
        reached = {name: own if name == "revision" else named for name in _PLACING}
        said = [name for name in _PLACING if getattr(self, name) != RunSettings.default(name)]
        given = [flag_of(name) for name in said if reached[name] and all(map(is_api, reached[name]))]
        if given:
            raise UserError(
                f"{' and '.join(given)} must be left out for '{remote[0]}', whose server has loaded it; there is no "
                "other model."
            )

    @property
    def repeat(self) -> str:
        """How to make the run again: a command; a comment with the call where an object was given in Python."""
        said = {f.name: getattr(self, f.name) for f in settings_of_a_run() if f.metadata["repeats"]}
        given = {name: said[name] for name in said if said[name] != RunSettings.default(name)}
        objects = [name for name, value in self._named() if not isinstance(value, str | Path)]
        return self._call(given, objects) if objects else self._command(given)

    @staticmethod
    def default(name: str) -> Any:
        """Return what holds for a setting where nothing is said."""
        return getattr(RunSettings, name)

    def _named(self) -> Iterator[tuple[str, Any]]:
        """Iterate over what can be an object, where it is given."""
        for name in ("task", "model", "test", "selector_model", "source", "inputs"):
            if (value := getattr(self, name)) is not None:
                yield name, value

    def _command(self, given: Mapping[str, Any]) -> str:
        words = ["kshot", "adapt", str(self.task)]
        for name, value in given.items():
            flag = flag_of(name)
            words += [flag] if value is True else [f"--no-{flag[2:]}"] if value is False else [flag, str(value)]
        return shlex.join(words)

    def _call(self, given: Mapping[str, Any], objects: Sequence[str]) -> str:
        def written(name: str, value: Any) -> str:
            if name in objects:
                return name
            return repr(parse_columns(value) if name == "columns" else str(value) if isinstance(value, Path) else value)

        more = {name: value for name, value in given.items() if name != "model"}
        arguments = [written("task", self.task), written("model", self.model)]
        arguments += [f"{name}={written(name, value)}" for name, value in more.items()]
        what = " and ".join(name.replace("_", " ") for name in objects)
        return f"# Given in Python, not by name: {what}. Again: kshot.adapt({', '.join(arguments)})"


def settings_of_a_run() -> list[Field[Any]]:
    """Return the fields of `RunSettings` that are flags and keys of the file: all but the task."""
    return [f for f in fields(RunSettings) if f.name != "task"]
