"""Read files of rows: JSON and CSV, maybe packed with gzip, and Parquet.

A row's number is its line in a text file, counted from 1 (in CSV the header is line 1, and a row that spans several
lines has the number of its last), and its place in a Parquet file or a list of JSON.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from kshot.core.errors import UserError
from kshot.tasks.csv_file import read_csv
from kshot.tasks.json_file import read_json
from kshot.tasks.missing import is_missing
from kshot.tasks.packed import PACKED
from kshot.tasks.parquet import read_parquet
from kshot.tasks.rows import BadRow, Row
from kshot.tasks.text_file import MOST_ROWS, read_text

MOST_COLUMNS = 1000
MOST_LINES = 5 * MOST_ROWS  # a row of CSV may have several
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")  # as messages name them
PACKABLE = SUFFIXES[:-1]  # Parquet packs its columns itself
TEXT = ".txt"  # of plain texts, which are no rows
READ_SUFFIXES = (*SUFFIXES, *(suffix + PACKED for suffix in PACKABLE))
# What can be done with files of rows in other formats.
REMEDIES = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "unpack it first"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV UTF-8"),
    **dict.fromkeys((".yaml", ".yml", ".xml", ".arrow", ".feather", ".ndjson"), "save its rows as one of these"),
}


def rows_suffix(file: Path) -> str:
    """Return the ending of a file's name in small letters: both of `.csv.gz` and `.txt.gz`, the last of `.tar.gz`."""
    suffix, inner = file.suffix.lower(), Path(file.stem).suffix.lower()
    return inner + suffix if suffix == PACKED and inner in (*PACKABLE, TEXT) else suffix


@dataclass(frozen=True)
class Table:
    """Rows as they stand in one file or split.

    Attributes:
        source: What messages call it.
        fixed: Each row has every column, so an empty cell means that the row lacks it.
        cells: All values are text, so lists are written as "a|b".
        notes: How it was read, where that is not plain, for the user to read.
    """

    source: str
    rows: tuple[Row, ...]
    fixed: bool = False
    cells: bool = False
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of its rows, in the order of their first appearance."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))

    @property
    def short(self) -> str:
        """What notes call it: its file's name, or the dataset's with the split."""
        return Path(self.source).name

    def without_rows(self, column: str) -> "Table":
        """Return a table of test rows without them, and say that none of them has an answer in `column`."""
        return replace(
            self,
            rows=(),
            notes=(*self.notes, f"{self.short} holds no answers in '{column}', so there are no test rows"),
        )


def read_table(file: Path, bad: list[BadRow] | None = None) -> Table:
    """Read a file that ends in one of `READ_SUFFIXES`; blank lines are skipped.

    Args:
        file: Text files are UTF-8, or have a byte order mark that says what else they are.
        bad: Rows that cannot be read are added to it.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: The file cannot be read, or there are no rows.
    """
    table = _read(file, bad)
    if (n := len(table.columns)) > MOST_COLUMNS:
        raise UserError(f"{file} must have at most {MOST_COLUMNS:,} columns; it has {n:,}. Leave out those not needed.")
    return table


def _read(file: Path, bad: list[BadRow] | None) -> Table:
    source, suffix = str(file), rows_suffix(file).removesuffix(PACKED)
    if suffix == ".parquet":
        return Table(source, read_parquet(file), fixed=True)
    text = read_text(file)
    if (n := text.count("\n")) > MOST_LINES:
        raise UserError(f"{file} must have at most {MOST_LINES:,} lines; it has {n:,}. Give a sample of its rows.")
    if is_missing(text):
        raise UserError(f"{file} is empty; it must hold one example a line.")
    if suffix in (".jsonl", ".json"):
        rows, notes = read_json(source, text, bad)
        return Table(source, rows, notes=notes)
    rows, notes = read_csv(source, text, bad, usual="\t" if suffix == ".tsv" else ",")
    return Table(source, rows, fixed=True, cells=True, notes=notes)
