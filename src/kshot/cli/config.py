"""Settings from a YAML file: the schema is that of `RunSettings`, unknown keys are errors, flags override."""

import reprlib
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, ValidationError, create_model

from kshot.core.errors import UserError, did_you_mean
from kshot.core.given_files import text_of
from kshot.core.paths import path_of
from kshot.core.plugins import is_own
from kshot.core.settings import RunSettings, settings_of_a_run

_MOST_BYTES = 1_000_000  # YAML is read slowly


def read_settings(task: str, file: Path | None, flags: dict[str, Any], *, allow_code: bool = False) -> RunSettings:
    """Merge a file's settings with the flags that were given (those that are not None).

    Args:
        task: The task.
        file: The file.
        flags: What the user has typed; it may name code.
        allow_code: Whether the file may name code too.

    Raises:
        UserError: The file cannot be read, is not a mapping, has an unknown key or a value of the wrong type, or names
            code; or a setting is not what it must be.
    """
    values: Any = {}
    if file is not None:
        try:
            values = yaml.load(text_of(path_of(file), _MOST_BYTES), _Loader) or {}  # noqa: S506 - it is a safe one
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"--config must name a readable YAML file; {file}: {_said(error)}. Correct it.") from error
        if not isinstance(values, dict):
            raise UserError(f"--config must hold settings as 'name: value'; {file} holds a {type(values).__name__}.")
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        read = _schema()(**{**{str(k): v for k, v in values.items()}, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = [f.name for f in settings_of_a_run()]
            raise UserError(f"{file}: there is no setting '{key}'.{did_you_mean(key, known)}") from None
        raise UserError(f"{file}: {key}: {first['msg']}; got {reprlib.repr(first['input'])}.") from None
    if not allow_code:
        _check_runs_nothing(file, {key: value for key, value in values.items() if key not in given})
    return RunSettings(task, **read.model_dump(exclude_unset=True))


def _check_runs_nothing(file: Path | None, values: dict[str, Any]) -> None:
    """Refuse settings of a file that would run Python: that somebody wrote them down does not allow it."""
    recipes = values.get("recipes", "")
    if is_own(named := recipes if isinstance(recipes, str) else ",".join(recipes)):
        raise UserError(
            f"{file}: recipes name a file of Python, which would be run; got '{named}'. Read it, and if you trust it "
            "give --allow-code, or --recipes on the command line."
        )
    if values.get("trust_remote_code"):
        raise UserError(
            f"{file}: trust_remote_code lets Python that comes with a model run, which must be said on the command "
            "line. Read it, and if you trust it give --trust-remote-code."
        )


def _schema() -> Any:
    """Return the model of the file: each setting with the type that its flag takes."""
    known: dict[str, Any] = {}
    for setting in settings_of_a_run():
        of_file = setting.metadata["type"]
        known[setting.name] = (of_file if setting.default is not None else of_file | None, setting.default)
    return create_model("SettingsFile", __config__=ConfigDict(extra="forbid", strict=True), **known)


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:400]


class _Loader(yaml.SafeLoader):
    """Reads plain values; what stands for others by a name could stand for billions of them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.YAMLError(
                f"line {event.start_mark.line + 1}: write *{event.anchor} out, as aliases are not read"
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice."""
        names = Counter(name.value for name, _ in node.value if isinstance(name.value, str))
        if twice := next((name for name, n in names.items() if n > 1), None):
            raise yaml.YAMLError(f"'{twice}' is there twice")
        return super().construct_mapping(node, deep)
