"""Separators at the end of prompts, as OpenAI's old format of `prompt` and `completion` asked for: they are said."""

import re
from collections.abc import Sequence
from os.path import commonprefix

from kshot.tasks.rows import Row

COLUMN = "prompt"
NO_WORD = re.compile(r"\W*")  # the part of an ending that can be a separator, from its end
PLAIN = re.compile(r"\s?[.?!:)\"'…]*\s?")  # how sentences end anyway


def ending_note(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """Return a note on the separator with which all inputs of a column `prompt` end, if there is one: it is kept."""
    texts = [value for row in rows if isinstance(value := row.values.get(column), str)]
    if column.lower() != COLUMN or len(texts) < 2:
        return ()
    shared = commonprefix([text[::-1] for text in texts])[::-1]
    found = NO_WORD.match(shared[::-1])
    separator = found[0][::-1] if found else ""
    if PLAIN.fullmatch(separator):
        return ()
    return (f"all inputs end with {separator!r}, which is kept; take it off here and later if it only separates",)
