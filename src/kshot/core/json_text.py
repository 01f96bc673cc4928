"""JSON as kshot writes and reads it: without NaN and infinity, which are no JSON; what has no value is null."""

import json
from array import array
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NoReturn

from kshot.core.errors import NotFiniteError


def to_json(value: Any, *, ensure_ascii: bool = False, **how: Any) -> str:
    """Return a value as JSON.

    Args:
        value: Mappings, lists, tuples, arrays of numbers, texts, numbers, None.
        ensure_ascii: Write other letters as escapes.
        how: Further arguments of `json.dumps`, such as `indent`.

    Raises:
        NotFiniteError: A number in it is not finite.
        TypeError: Something in it is no JSON.

    Example:
        >>> to_json({"é": None})
        '{"é": null}'
    """
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, default=_listed, **how)
    except ValueError:
        place, number = next(_not_finite(value, ""))
        raise NotFiniteError(
            f"Numbers that are written down must be finite; {place.lstrip('.') or 'it'} is {number}. Leave out the "
            "recipe or the method that says it."
        ) from None


def from_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is no JSON, holds NaN, an infinity or half of a surrogate pair, or is nested too deeply.
    """
    try:
        found = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if (b"\\ud" in text.lower()) if isinstance(text, bytes) else ("\\ud" in text or "\\uD" in text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair, which is no text") from None
    return found


def _listed(value: Any) -> list[Any]:
    """Return packed numbers as a list; `json` asks for all that it does not know."""
    if isinstance(value, array):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is no JSON")


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Return where in a value numbers are not finite."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}")
    elif isinstance(value, list | tuple | array):
        for i, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{i}]")
    elif isinstance(value, float) and not isfinite(value):
        yield place, value
