"""What counts as missing in a file of rows: NaN, null, and text in which nothing can be seen."""

import math
import unicodedata
from collections.abc import Mapping

INVISIBLE = ("Cc", "Cf")  # control and format characters: U+200B, U+2060, U+FEFF, marks of direction, …


def is_blank(text: str) -> bool:
    """Return whether a text has no character that can be seen."""
    return all(c.isspace() or unicodedata.category(c) in INVISIBLE for c in text)


def is_missing(value: object) -> bool:
    """Return whether a cell, or a value of JSON, holds nothing: null, NaN, an empty list, or a text that is blank."""
    if isinstance(value, str):
        return is_blank(value)
    return value is None or value == [] or _is_nan(value)


def without_nan(values: Mapping[str, object]) -> dict[str, object]:
    """Return a row's values with null for NaN, which is how pandas and NumPy write a missing value."""
    return {column: None if _is_nan(value) else value for column, value in values.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
