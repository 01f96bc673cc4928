"""What Python holds texts in: lists, arrays, series, one column of a data frame; or what else it is, and what to do."""

from collections.abc import Iterable, Mapping
from io import IOBase
from typing import Any

import numpy as np

from kshot.core.errors import InvalidInputError
from kshot.core.types import Example, Question
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import text_flaw

_ONE = (str, bytes, bytearray, memoryview, Mapping, Example, Question)  # can be iterated over, and is one input


def items_of(values: Any, name: str) -> list[Any]:
    """Return the items of whatever holds one a row: a list, an iterator, an array, a series, a table of one column.

    Args:
        values: What was given.
        name: What messages call it.

    Raises:
        InvalidInputError: It is one input alone, a table of several columns, or has no order.
    """
    if isinstance(values, _ONE):
        raise InvalidInputError(
            f"{name} must be a list of inputs, also where there is one; got {type(values).__name__}. Write [text] for "
            "one."
        )
    if isinstance(values, set | frozenset):
        raise InvalidInputError(
            f"{name} must have an order, in which answers come; got {type(values).__name__}. Make it a list: "
            "sorted(texts)."
        )
    if isinstance(values, IOBase):
        raise InvalidInputError(
            f"{name} must be a list of inputs; got an open file. Give its lines: file.read().splitlines()."
        )
    if hasattr(values, "__array__"):
        return _column(values, name)
    if not isinstance(values, Iterable):
        raise InvalidInputError(f"{name} must be a list of inputs; got {type(values).__name__}. Write [text] for one.")
    items = list(values)
    if items and all(isinstance(item, list | tuple | np.ndarray) for item in items):
        if any(len(item) != 1 for item in items):
            raise InvalidInputError(
                f"{name} must hold one text a row; got rows of several, as {_short(items[0])}. Choose one of them, or "
                "write each row as one text."
            )
        return [item[0] for item in items]
    return items


def _column(values: Any, name: str) -> list[Any]:
    """Return the items of an array, or of anything that becomes one, of one dimension or one column."""
    array = as_objects(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        return list(array)
    if array.ndim == 0:
        raise InvalidInputError(f"{name} must be a list of inputs; got {type(values).__name__}. Write [text] for one.")
    columns = [str(column) for column in columns_of(values)]
    got = f"an array of shape {array.shape}"
    if columns:
        got = f"a table with the columns {', '.join(columns[:5])}{', …' if columns[5:] else ''}"
    choice = f"df[{columns[0]!r}]" if columns else "array[:, 0]"
    raise InvalidInputError(
        f"{name} must hold one text a row, in a single column; got {got}. Choose one column, as in {choice}, or write "
        "each row as one text."
    )


def columns_of(table: Any) -> list[Any]:
    """Return the names of a table's columns; none of what names none."""
    own = getattr(table, "column_names", None)  # Arrow's, whose `columns` are what stands in them
    return own if isinstance(own, list) else list(getattr(table, "columns", ()))


def as_objects(values: Any) -> np.ndarray:
    """Return an array of the values as they are, with None where one is masked."""
    masked = isinstance(values, np.ma.MaskedArray)
    return np.asarray(values.tolist() if masked else values, dtype=object)


def as_plain(value: Any) -> Any:
    """Return a text of a class of its own, such as a member of an Enum, as the text that it is; others as they are.

    Of `class Label(str, Enum)` a prompt would show the name, "Label.good", and NumPy cuts it.
    """
    return str.__str__(value) if isinstance(value, str) else value


def checked_text(value: object, name: str, number: int) -> str:
    """Return an item that is a text which a model can be given.

    Raises:
        InvalidInputError: It is something else, is empty, or holds characters that are no text.
    """
    if not isinstance(value, str):
        remedy = "decode it: text.decode()" if isinstance(value, bytes) else "write it as a str"
        raise InvalidInputError(
            f"{name} must hold texts; number {number} is {_short(value)}. Leave it out, or {remedy}."
        )
    text: str = as_plain(value)
    if flaw := text_flaw(text) or ("" if trimmed(text) else "it is empty; leave it out"):
        raise InvalidInputError(f"{name} must hold texts; number {number} cannot be used: {flaw}.")
    return text


def check_question(text: object, what: str) -> None:
    """Refuse what is no text that a model, or an encoder, can be asked alone.

    Args:
        text: What was given.
        what: What messages call it.

    Raises:
        InvalidInputError: It is something else, is empty, or holds characters that are no text.
    """
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} must be a text; got {_short(text)}. Write it as a str.")
    if flaw := text_flaw(text) or ("" if trimmed(text) else "it is empty; write what would be asked"):
        raise InvalidInputError(f"{what} must be the text of an input, but {flaw}.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
