"""A row of labelled examples, from whatever format, and what is said of rows that cannot be used."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import isinf
from typing import NoReturn, TypeVar

from kshot.core.control_tokens import MARK
from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.tasks.missing import is_absent, trimmed

FIELDS = ("input", "output", "context", "explanation", "choices", "references", "id")
REQUIRED = ("input", "output")
LISTS = ("choices", "references")
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_TOLD = 3
MOST_CHARACTERS = 10_000_000  # of one text: more than any model's context
_WHOLE = 2**53  # below which a float can be a whole number that was an int


R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        source: The file or split.
        number: As in `Row`.
        text: One sentence, with the row and the remedy.
    """

    source: str
    number: int
    text: str

    def to_json(self) -> dict[str, str | int]:
        """Return what `kshot validate --json` says of it."""
        return {"file": self.source, "row": self.number, "message": self.text}


class BadRowsError(UserError):
    """Rows cannot be used; the text says the first of them.

    Attributes:
        rows: All of them, in the order in which they were found.
        advice: What to do about them together; a sentence, or empty.

    Args:
        most: So many are told.
        rest: What is said of the others, as in `told`.
    """

    def __init__(
        self,
        rows: Sequence[BadRow],
        advice: str = "",
        *,
        most: int = MAX_TOLD,
        rest: str = "`kshot validate` lists all",
    ):
        self.rows, self.advice = tuple(rows), advice
        super().__init__(self.told(most, " ", rest))

    def told(self, most: int, between: str, rest: str) -> str:
        """Return what is wrong at most so often, how many more rows there are and where they are said, and the advice.

        Rows of which the same is wrong are told together.
        """
        alike: dict[tuple[str, str], list[BadRow]] = {}
        for row in self.rows:
            reason = row.text.removeprefix(f"{row.source} row {row.number}")
            alike.setdefault((row.source, reason), []).append(row)
        groups = list(alike.values())
        more = sum(map(len, groups[most:]))
        counted = [f"{more} more row{'s' * (more > 1)} cannot be used; {rest}."] if more else []
        return between.join(filter(None, (*(_together(rows, most) for rows in groups[:most]), *counted, self.advice)))


def _together(rows: Sequence[BadRow], most: int) -> str:
    """Return what the first row says, and which others say the same, at most so many by their numbers."""
    first, *others = rows
    numbers = ", ".join(str(row.number) for row in others[:most]) + (", …" if len(others) > most else "")
    return f"{first.text} The same in {len(others)} more: {numbers}." if others else first.text


def each_row(rows: Iterable[R], read: Callable[[R], S], bad: list[BadRow] | None = None) -> list[S]:
    """Return what `read` makes of each row, and go on after one that it refuses, so that all are known at once.

    Args:
        rows: What is read.
        read: Raises BadRowsError for a row that cannot be used.
        bad: Those rows are added to it.

    Raises:
        BadRowsError: With all rows that cannot be used, where there is no `bad`.
    """
    made, found = [], list[BadRow]()
    for row in rows:
        try:
            made.append(read(row))
        except BadRowsError as error:
            found += error.rows
    if bad is not None:
        bad += found
    elif found:
        raise BadRowsError(found)
    return made


@dataclass(frozen=True)
class Row:
    """A row, and where it stands.

    Attributes:
        source: The file or split, as a message names it.
        number: Counted from 1; in text files it is the line (see `kshot.tasks.tables`).
        values: Column to value; null means that the row lacks the column.
    """

    source: str
    number: int
    values: Mapping[str, object]

    def fail(self, message: str) -> NoReturn:
        """Raise a BadRowsError that names the file and the row."""
        raise BadRowsError([BadRow(self.source, self.number, f"{self.source} row {self.number}: {message}")])

    def example(self, names: Mapping[str, str], split: str, *, labelled: bool = True) -> Example:
        """Return the row as an example; columns that hold none of `FIELDS` become its `meta`.

        Args:
            names: For each of `FIELDS` that the rows may have, the column that holds it.
            split: Names the row where it has no id of its own.
            labelled: The output must be there; otherwise output and references are left empty.

        Raises:
            BadRowsError: A field is missing, empty, of the wrong type, or holds characters that are no text; or the
                output is not among the references.
        """
        example = Example(
            input=self._required(names["input"]),
            output=self._required(names["output"]) if labelled else "",
            id=self._id(names.get("id")) or f"{split}-{self.number}",
            context=self._text(names.get("context")),
            explanation=self._text(names.get("explanation")),
            choices=self._texts(names.get("choices")),
            references=self._texts(names.get("references")) if labelled else (),
            meta={c: _whole(v) for c, v in self.values.items() if c not in names.values() and v is not None},
        )
        column = names.get("references", "references")
        if labelled and self.values.get(column) == []:
            self.fail(f"'{column}' must not be empty; list all accepted outputs, or leave it out.")
        if labelled and example.references and trimmed(example.output) not in map(trimmed, example.references):
            self.fail(
                f"the output must be one of '{column}', as these are all accepted outputs; got "
                f"{shown(example.output)}; add it to them, or leave them out."
            )
        return example

    def _required(self, column: str) -> str:
        if column not in self.values:
            present = ", ".join(self.values) or "no columns"
            self.fail(f"the column '{column}' is missing, the row has {present}; add it, or leave the row out.")
        return self.text(self.values[column], f"'{column}'")

    def _text(self, column: str | None) -> str | None:
        if column is None or self.values.get(column) is None:
            return None
        return self.text(self.values[column], f"'{column}'")

    def _texts(self, column: str | None) -> tuple[str, ...]:
        if column is None or self.values.get(column) is None:
            return ()
        values = self.values[column]
        if not isinstance(values, list):
            self.fail(f'\'{column}\' must be a list of strings; got {shown(values)}; write it as ["…", "…"].')
        return tuple(self.text(value, f"'{column}' item {i}") for i, value in enumerate(values, 1))

    def _id(self, column: str | None) -> str | None:
        value = self.values.get(column) if column else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self._text(column)

    def text(self, value: object, what: str) -> str:
        """Return a value that can be given to a model, and refuse another under the name `what`.

        Raises:
            BadRowsError: It is no string, is empty, or holds characters that are no text.
        """
        if not isinstance(value, str):
            self.fail(f"{what} must be a string; got {shown(value)}{_remedy(value)}.")
        if flaw := text_flaw(value):
            self.fail(f"{what} must be text, but {flaw}.")
        if not trimmed(value):
            unseen = ", but all its characters are invisible" if value.strip() else ""
            self.fail(f"{what} must not be empty{unseen}; fill it in or leave it out.")
        return value


def _remedy(value: object) -> str:
    if is_absent(value):
        return "; fill it in, or leave the row out"
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return (
            f'; write it as "{value:.0f}" (where pandas has made fractions of whole numbers, as one is missing: '
            'df[column].astype("Int64").astype("string"))'
        )
    if isinstance(value, bool | int | float):
        return f'; write it as "{json.dumps(value)}"'
    if isinstance(value, list | dict):
        return "; write it as one text, or leave the row out"
    return ""


def text_flaw(text: str) -> str | None:
    """Return why `text` cannot be given to a model, or None. JSON can spell all flaws with escapes."""
    if len(text) > MOST_CHARACTERS:
        return f"it has {len(text):,} characters, and {MOST_CHARACTERS:,} are the most; shorten it"
    if "\0" in text:
        return "it holds a NUL character; remove it"
    if SURROGATE.search(text):
        return "it holds half of a surrogate pair; remove it"
    if str(text) != text:
        return f"its class writes it as '{text}'; give it as a str: text.value of a member of an Enum"
    if MARK in text:
        return "it holds the character U+FDD0, which Unicode keeps for programs' own use; remove it"
    return None


def _whole(value: object) -> object:
    """Return a value that is only kept as JSON can hold it: bytes as how many they are, what has no form there as text.

    Half of a surrogate pair, which no file could hold, becomes U+FFFD, NaN becomes null, and infinity text.
    """
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if is_absent(value):
        return None
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} s"
    is_number = isinstance(value, int) or (isinstance(value, float) and not isinf(value))
    return value if is_number else str(value)  # dates, UUIDs, periods, …


def shown(value: object) -> str:
    """Return a value for a message: its type, and how it begins."""
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False, default=str)
    kind = kinds.get(type(value), f"a value of type {type(value).__name__}")
    return f"{kind} ({text[:40]}{'…' if len(text) > 40 else ''})"
