"""A row of labelled examples, from whatever format; the first thing that is wrong with it ends the reading."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from kshot.core.errors import UserError
from kshot.core.types import Example
from kshot.tasks.missing import is_blank

FIELDS = ("input", "output", "context", "explanation", "choices", "references", "id")
REQUIRED = ("input", "output")
LISTS = ("choices", "references")
SURROGATE = re.compile("[\ud800-\udfff]")
HOW_TO_MAP = "name the columns, as in --columns input=question,output=answer"


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
        """Raise a UserError that names the file and the row."""
        raise UserError(f"{self.source} row {self.number}: {message}")

    def example(self, names: Mapping[str, str], split: str, *, labelled: bool = True) -> Example:
        """Return the row as an example; columns that hold none of `FIELDS` become its `meta`.

        Args:
            names: For each of `FIELDS` that the rows may have, the column that holds it.
            split: Names the row where it has no id of its own.
            labelled: The output must be there; otherwise output and references are left empty.

        Raises:
            UserError: A field is missing, empty, of the wrong type, or holds characters that are no text; or the
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
        if labelled and example.references and example.output not in example.references:
            self.fail(
                f"the output must be one of '{column}', as these are all accepted outputs; got "
                f"{shown(example.output)}; add it to them, or leave them out."
            )
        return example

    def _required(self, column: str) -> str:
        if column not in self.values:
            present = ", ".join(self.values) or "no columns"
            self.fail(f"the column '{column}' is missing, the row has {present}; {HOW_TO_MAP}.")
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
            UserError: It is no string, is empty, or holds characters that are no text.
        """
        if not isinstance(value, str):
            self.fail(f"{what} must be a string; got {shown(value)}{_remedy(value)}.")
        if flaw := text_flaw(value):
            self.fail(f"{what} must be text, but {flaw}.")
        if is_blank(value):
            self.fail(f"{what} must not be empty; fill it in or leave it out.")
        return value


def _remedy(value: object) -> str:
    if isinstance(value, bool | int | float):
        return f'; write it as "{json.dumps(value)}"'
    if value is None:
        return "; fill it in, or leave the row out"
    if isinstance(value, list | dict):
        return f"; put its text into a column and {HOW_TO_MAP}"
    return ""


def text_flaw(text: str) -> str | None:
    """Return why `text` cannot be given to a model, or None. JSON can spell both flaws with escapes."""
    if "\0" in text:
        return "it holds a NUL character; remove it"
    if SURROGATE.search(text):
        return "it holds half of a surrogate pair; remove it"
    return None


def _whole(value: object) -> object:
    """Return a value that is only kept with U+FFFD for half of a surrogate pair, which no file could hold."""
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


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
