"""Settings from a YAML file: one typed schema, unknown keys are errors, flags override."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kshot.core.errors import UserError, did_you_mean


class AdaptConfig(BaseModel):
    """What `kshot adapt` can be told, in a file or by flags of the same names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    recipes: str | list[str] = "all"
    shots: int | None = None
    seed: int = 0
    limit: int = 300
    budget: str | None = None
    out: str | None = None
    columns: str | None = None
    layout: str = "auto"
    selector_model: str | None = None
    source: str | None = None
    race: bool = True
    choose_by: str = "metric"
    prefer: str | None = None
    track: str | None = None
    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None


def read_config(file: Path | None, flags: dict[str, Any]) -> AdaptConfig:
    """Merge a file's settings with the flags that were given (those that are not None).

    Raises:
        UserError: The file cannot be read, is not a mapping, has an unknown key or a value of the wrong type.
    """
    values: Any = {}
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text("utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"--config must name a readable YAML file; {file}: {_one_line(error)}.") from error
        if not isinstance(values, dict):
            raise UserError(f"--config must hold settings as 'name: value'; {file} holds a {type(values).__name__}.")
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return AdaptConfig(**{**{str(k): v for k, v in values.items()}, **given})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"{file}: there is no setting '{key}'.{did_you_mean(key, AdaptConfig.model_fields)}"
            ) from None
        raise UserError(f"{file}: {key}: {first['msg']}; got {first['input']!r}.") from None


def recipe_names(recipes: str | list[str]) -> str:
    """Return recipes as one text, whether the file lists them or not."""
    return recipes if isinstance(recipes, str) else ",".join(recipes)


def parse_columns(text: str | None) -> dict[str, str] | None:
    """Read "input=question,output=answer".

    Raises:
        UserError: Something else.
    """
    if text is None:
        return None
    pairs = [piece.partition("=") for piece in text.split(",")]
    if not all(left.strip() and right.strip() for left, _, right in pairs):
        raise UserError(f"--columns must look like input=question,output=answer; got '{text}'.")
    return {left.strip(): right.strip() for left, _, right in pairs}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
