"""How names become code: a room's table, a package's entry point, or the user's own file."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from kshot.core.errors import UserError, did_you_mean


def resolve(reference: str) -> Any:
    """Import "package.module:Name"; nothing of the module is loaded before this call."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def find(name: str, table: Mapping[str, str], *, group: str, what: str) -> Any:
    """Return the class that `name` stands for.

    Args:
        name: A name of `table`, of an installed package's entry point, or "./file.py:Class".
        table: The room's own names, as "package.module:Class".
        group: Entry-point group in which packages may register more names, e.g. "kshot.selectors".
        what: What the name names, for the message, e.g. "recipe".

    Raises:
        UserError: Nobody knows the name, or the file has no such class.
    """
    if name in table:
        return resolve(table[name])
    if ".py:" in name:
        return _from_file(*name.rsplit(":", 1))
    more = {e.name: e for e in entry_points(group=group)}
    if name in more:
        return more[name].load()
    raise UserError(f"there is no {what} '{name}'.{did_you_mean(name, [*table, *more])}")


def _from_file(path: str, name: str) -> Any:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"'{path}:{name}' must name a Python file; {path} does not exist.")
    spec = importlib.util.spec_from_file_location(f"kshot_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise UserError(f"{path} must define '{name}'; it defines no such class.")
    return getattr(module, name)


def configure(cls: type, settings: Mapping[str, str], *, owner: str, also: tuple[str, ...] = ()) -> Any:
    """Build the frozen dataclass `cls` from settings written as text; `also` are settings that its owner takes.

    Raises:
        UserError: An unknown setting, or a value of the wrong type.
    """
    if not dataclasses.is_dataclass(cls):
        raise UserError(f"'{owner}' must be a frozen dataclass, whose fields are its settings; {cls!r} is none.")
    fields = {f.name for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")}
    hints = get_type_hints(cls)
    values = {}
    for key, text in settings.items():
        if key not in fields:
            known = did_you_mean(key, [*fields, *also]) if fields or also else " It has none."
            raise UserError(f"'{owner}' has no setting '{key}'.{known}")
        values[key] = _parse(text, hints[key], f"{owner}:{key}")
    return cls(**values)


def _parse(text: str, kind: Any, where: str) -> Any:
    words = {"true": True, "false": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"{where} must be {kind.__name__}; got '{text}'.") from None
