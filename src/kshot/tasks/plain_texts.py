"""Plain texts that are no examples: a text file with one a line, or rows that have a `text`, or else an `input`."""

from functools import lru_cache
from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.paths import path_of
from kshot.tasks.missing import is_missing
from kshot.tasks.rows import Row, each_row, text_flaw
from kshot.tasks.tables import READ_SUFFIXES, REMEDIES, SUFFIXES, read_table, rows_suffix
from kshot.tasks.text_file import cannot_be_read, lines_of, read_text

COLUMNS = ("text", "input")


def plain_texts(file: str | Path) -> tuple[str, ...]:
    """Read texts, each once, in their order; blank lines are skipped.

    Args:
        file: One that ends in `READ_SUFFIXES`, of rows; any other is a text with one a line.

    Raises:
        UserError: It cannot be read, is of another kind, has rows without a text, or there is nothing in it.
    """
    place = path_of(file).absolute()
    try:
        about = place.stat()
    except OSError as error:
        raise cannot_be_read(str(place), error) from None
    return _read(place, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _read(file: Path, *version: int) -> tuple[str, ...]:
    suffix = rows_suffix(file)
    if remedy := REMEDIES.get(suffix):
        raise UserError(f"{file} must be a text with one text a line, or end in {', '.join(SUFFIXES)}; {remedy}.")
    if suffix in READ_SUFFIXES:
        table = read_table(file)
        column = next((name for name in COLUMNS if name in table.columns), None)
        if column is None:
            raise UserError(
                f"{file} must have a column 'text', or 'input', with a text in each row; it has "
                f"{', '.join(table.columns)[:80]}. Rename the one that holds the texts."
            )
        found = each_row(table.rows, lambda row: _checked(row, column))
    else:
        lines = enumerate(lines_of(read_text(file)), 1)
        found = each_row((Row(str(file), i, {"text": line}) for i, line in lines if line.strip()), _checked)
    if not found:
        raise UserError(f"{file} must hold texts, one a line; it is empty. Name another file.")
    return tuple(dict.fromkeys(found))


def _checked(row: Row, column: str = "text") -> str:
    text = row.values.get(column)
    if is_missing(text) or not isinstance(text, str):
        row.fail(f"'{column}' must be a text; got {str(text)[:40]!r}. Correct the row, or leave it out.")
    if flaw := text_flaw(text):
        row.fail(f"it must be text, but {flaw}.")
    return text.strip()
