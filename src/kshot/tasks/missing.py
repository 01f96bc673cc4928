"""What counts as missing in rows: None (null), NaN, and text in which nothing can be seen."""

from collections.abc import Mapping
from decimal import Decimal

import numpy as np

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
PANDAS = ("NAType", "NaTType")  # its words for "nothing", for which it is not imported


def trimmed(text: str) -> str:
    """Return the text without white space and invisible characters around it; empty where there is nothing to see."""
    return text.strip(BLANK)


def is_absent(value: object) -> bool:
    """Return whether a value stands for nothing: None, NaN, pandas' NA and NaT."""
    if isinstance(value, float | np.floating | np.datetime64 | Decimal):
        return bool(value != value)  # as only NaN and NaT
    return value is None or type(value).__name__ in PANDAS


def is_missing(value: object) -> bool:
    """Return whether a cell, or a value of JSON, holds nothing: null, NaN, an empty list, or a text without content."""
    if isinstance(value, str):
        return not trimmed(value)
    return is_absent(value) or (isinstance(value, list) and not value)


def without_nan(values: Mapping[str, object]) -> dict[str, object]:
    """Return a row's values with null for NaN, which is how pandas and NumPy write a missing value."""
    return {column: None if is_absent(value) else value for column, value in values.items()}
