"""What counts as missing in a file of rows: NaN, null, and text in which nothing can be seen."""

import math
from collections.abc import Mapping

# Control and format characters of Unicode that no reader sees, which `str.strip` leaves: U+200B, U+FEFF, marks of
# direction, …. Signs of Arabic are format characters too, but are seen; tags are part of emoji, as in flags.
UNSEEN = "".join(
    chr(code)
    for codes in (
        *(range(0x20), range(0x7F, 0xA0), range(0x200B, 0x2010), range(0x202A, 0x202F), range(0x2060, 0x2070)),
        *((0xAD, 0x34F, 0x61C, 0x180E, 0xFEFF), range(0xFFF9, 0xFFFC)),
    )
    for code in codes
    if not chr(code).isspace()
)
BLANK = UNSEEN + "".join(c for c in map(chr, range(0x3001)) if c.isspace())


def trimmed(text: str) -> str:
    """Return the text without white space and invisible characters around it; empty where there is nothing to see."""
    return text.strip(BLANK)


def is_missing(value: object) -> bool:
    """Return whether a cell, or a value of JSON, holds nothing: null, NaN, an empty list, or a text without content."""
    if isinstance(value, str):
        return not trimmed(value)
    return value is None or value == [] or _is_nan(value)


def without_nan(values: Mapping[str, object]) -> dict[str, object]:
    """Return a row's values with null for NaN, which is how pandas and NumPy write a missing value."""
    return {column: None if _is_nan(value) else value for column, value in values.items()}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
