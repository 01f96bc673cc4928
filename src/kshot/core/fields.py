"""Settings as fields of a frozen dataclass, each with what it can be."""

import os
from dataclasses import field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from kshot.core.errors import SettingError

_LIMITS = ("least", "most", "above", "choices", "hint")


def setting(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    hint: str = "",
    raced: bool = False,
) -> Any:
    """Return a dataclass field that is checked when its owner is built.

    Args:
        default: Its value where none is given.
        least: The smallest value it can have.
        most: The largest value it can have.
        above: What its value must be greater than.
        choices: The only values it can have.
        hint: A sentence for the message: what to do instead.
        raced: A recipe can name several of its values, as in "this/that", though it is a text without `choices`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Shown(Checked):
        ...     k: int = setting(8, least=1)
        >>> Shown(k=0)
        Traceback (most recent call last):
        kshot.core.errors.SettingError: k must be 1 or more; got 0.
    """
    limits = {"least": least, "most": most, "above": above, "choices": choices, "hint": hint, "raced": raced or None}
    return field(
        default=default, metadata={name: value for name, value in limits.items() if value not in (None, (), "")}
    )


def place(default: str) -> Any:
    """Return a dataclass field for a name that may be a folder's, whose path is made absolute."""
    return field(default=default, metadata={"place": True})


def state(default: Any = None) -> Any:
    """Return a dataclass field for what `fit` remembers: no setting, and no part of what a method is compared by."""
    return field(default=default, repr=False, compare=False)


class Checked:
    """Settings that are checked by their fields' own limits (`setting`) when they are built."""

    def __post_init__(self):
        for f in fields(self):  # pyright: ignore[reportArgumentType] - every subclass is a dataclass
            limits, value = f.metadata, getattr(self, f.name)
            if "place" in limits and value != f.default and os.path.isdir(value):
                object.__setattr__(self, f.name, str(Path(value).resolve()))
            if not (limits.keys() & set(_LIMITS)) or _allowed(value, limits):
                continue
            got = f"'{value}'" if isinstance(value, str) else str(value)
            got = got if len(got) <= 80 else f"{got[:80]}…"
            hint = f" {limits['hint']}" if "hint" in limits else ""
            raise SettingError(f"{f.name} must be {_in_words(value, limits)}; got {got}.{hint}")


def _allowed(value: Any, limits: Any) -> bool:
    if "choices" in limits:
        return value in limits["choices"]
    return (
        (isinstance(value, int) or isfinite(value))  # a whole number may be too large for a float
        and value >= limits.get("least", value)
        and value <= limits.get("most", value)
        and ("above" not in limits or value > limits["above"])
    )


def _in_words(value: Any, limits: Any) -> str:
    if "choices" in limits:
        return f"one of {', '.join(limits['choices'])}"
    kind = "a number, " if isinstance(value, float) else ""
    if "most" in limits and (kind or value > limits["most"]):
        if "least" not in limits:
            return f"greater than {limits['above']} and at most {limits['most']}"
        return f"in {limits['least']}..{limits['most']}"
    return f"greater than {limits['above']}" if "above" in limits else f"{kind}{limits['least']} or more"


def setting_names(cls: type) -> tuple[str, ...]:
    """Return the names of a dataclass's settings: its public fields."""
    return tuple(f.name for f in fields(cls) if f.init and not f.name.startswith("_"))
