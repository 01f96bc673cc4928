"""Rows that Python holds already: data frames, datasets, lists of mappings; read as those of a file are.

Frames of pandas and polars are known by the names of their classes: neither library is imported for it. A row's number
is its place, counted from 1; the index of a frame does not matter.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kshot.core.errors import UserError
from kshot.core.types import Task
from kshot.tasks.containers import as_objects, as_plain, items_of
from kshot.tasks.hub_dataset import dataset_table, tables_of_splits
from kshot.tasks.missing import without_nan
from kshot.tasks.rows import BadRow, Row, each_row, shown, text_flaw
from kshot.tasks.tables import MOST_COLUMNS, SUFFIXES, Table
from kshot.tasks.text_file import MOST_BYTES, MOST_ROWS

SPLITS = ("train", "test")
LIBRARIES = ("pandas", "polars")  # of data frames


def read_objects(given: Any, bad: list[BadRow] | None = None) -> tuple[list[Table], tuple[str, ...]]:
    """Return the train table, the test table if there is one, and notes on them.

    Args:
        given: A data frame of pandas or polars, a `datasets.Dataset`, or a list or tuple of mappings from a column to
            its value: train rows. Or a mapping from "train", and maybe "test", to such rows; or a `DatasetDict`, of
            which the splits are taken as for hf://.
        bad: Rows that cannot be read are added to it.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: It is something else, has no rows or too many, or columns whose names are nested or there twice.
    """
    if _is_of(given, "datasets", "DatasetDict"):
        if "train" not in given:
            raise UserError(
                f"A DatasetDict must have the split 'train'; it has {', '.join(given) or 'none'}; say which rows to "
                "learn from: {'train': splits['…']}."
            )
        return tables_of_splits("the DatasetDict", given, bad=bad)
    if not isinstance(given, Mapping):
        return [table_of(given, "", bad)], ()
    if "train" not in given or any(split not in SPLITS for split in given):
        keys = ", ".join(map(str, given)) or "none"
        raise UserError(
            f"A task that is a {type(given).__name__} must have the keys train and maybe test, with the rows of each; "
            f"it has {keys[:80]}; write it as {{'train': rows, 'test': rows}}, or one row alone as [row]."
        )
    return [table_of(given[split], f" of {split}", bad) for split in SPLITS if split in given], ()


def inputs_in(given: Any, task: Task) -> list[Any]:
    """Return the inputs in what Python holds, one for each item, as `items_of`.

    A data frame of several columns, among which is the task's column of inputs, has a mapping for each row.

    Raises:
        InvalidInputError: As `items_of`.
        UserError: Columns of such a frame are there twice.
    """
    rows = _rows_of_frame(given)
    columns = [] if rows is None else [str(column) for column in given.columns]
    if rows is None or len(columns) < 2 or task.columns.get("input", "input") not in columns:
        return items_of(given, "The inputs")
    return [row.values for row in _framed(f"the {type(given).__name__}", given.columns, rows).rows]


def answers_like(answers: list[Any], given: Any, task: Task) -> Any:
    """Return answers as a series, named as the task's column of outputs, where inputs came in a series or frame.

    One of pandas has the index of the inputs. Answers to anything else stay a list.
    """
    library = next((n for n in LIBRARIES if _is_of(given, n, "Series") or _is_of(given, n, "DataFrame")), None)
    if library is None:
        return answers
    series, name = sys.modules[library].Series, task.columns.get("output", "output")
    if library == "polars":
        text = sys.modules[library].String
        return series(name, answers, dtype=sys.modules[library].List(text) if task.is_multi_label else text)
    return series(answers, index=given.index, name=name, dtype=object if task.is_multi_label else "str")


def table_of(given: Any, of: str, bad: list[BadRow] | None) -> Table:
    """Return rows as a table; `of` says in messages which split they are.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: As `read_objects`, or their texts are too long together.
    """
    table = _read(given, of, bad)
    n = sum(len(value) for row in table.rows for value in row.values.values() if isinstance(value, str))
    if n > MOST_BYTES:
        raise UserError(
            f"{table.source} must hold texts of at most {MOST_BYTES / 1e6:.0f} million characters together; it has "
            f"{n / 1e6:,.0f} million. Give a sample of its rows, or leave out columns that are not needed."
        )
    return table


def _read(given: Any, of: str, bad: list[BadRow] | None) -> Table:
    where = f"the {type(given).__name__}{of}"
    if _is_of(given, "datasets", "Dataset"):
        return dataset_table(where, given, bad)
    if (rows := _rows_of_frame(given)) is not None:
        _check_size(where, len(given))
        return _framed(where, given.columns, rows)
    if isinstance(given, list | tuple) and (not given or any(isinstance(row, Mapping) for row in given)):
        _check_size(where, len(given))
        table = Table(where, tuple(each_row(enumerate(given, 1), lambda row: _row(where, *row), bad)))
        _check_width(where, len(table.columns))
        return table
    raise _refused(given)


def _is_of(given: Any, library: str, name: str) -> bool:
    """Return whether an object is of a library's class, which is not imported for it."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == library for c in type(given).__mro__)


def _rows_of_frame(given: Any) -> Iterable[tuple[Any, ...]] | None:
    """Return the values of each row of a data frame; None of anything else."""
    if _is_of(given, "pandas", "DataFrame"):
        return given.itertuples(index=False, name=None)
    return given.iter_rows() if _is_of(given, "polars", "DataFrame") else None


def _check_size(where: str, n: int) -> None:
    if not n:
        raise UserError(f"{where} has no rows; it must hold one example a row.")
    if n > MOST_ROWS:
        raise UserError(f"{where} must have at most {MOST_ROWS:,} rows; it has {n:,}. Give a sample of them.")


def _check_width(where: str, n: int) -> None:
    if n > MOST_COLUMNS:
        raise UserError(
            f"{where} must have at most {MOST_COLUMNS:,} columns; it has {n:,}. Leave out those not needed."
        )


def _names(where: str, columns: Iterable[Any]) -> list[str]:
    """Return the names of a frame's columns, each of which must be a text of its own; numbers are written as texts."""
    found = list(columns)
    _check_width(where, len(found))
    if nested := [name for name in found if isinstance(name, tuple)]:
        raise UserError(
            f"{where} must have one name for each column, but they are nested, as {nested[0]!r}; join them: df.columns "
            "= ['_'.join(map(str, name)) for name in df.columns]."
        )
    names = [str(name) for name in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where} must name each column once; '{twice[0]}' is there twice; rename or drop one of them.")
    if flaw := next(filter(None, map(text_flaw, names)), None):
        raise UserError(f"{where}: the name of each column must be text, but {flaw}.")
    return names


def _framed(where: str, columns: Iterable[Any], rows: Iterable[tuple[Any, ...]]) -> Table:
    names = _names(where, columns)
    read = (
        Row(where, number, without_nan({name: _plain(v) for name, v in zip(names, values, strict=True)}))
        for number, values in enumerate(rows, 1)
    )
    return Table(where, tuple(read), fixed=True)


def _row(where: str, number: int, values: Any) -> Row:
    row = Row(where, number, {})
    if not isinstance(values, Mapping):
        row.fail(f"it must be a mapping, such as {{'input': …}}; got {shown(values)}; write one, or leave the row out.")
    for name in values:
        if not isinstance(name, str):
            row.fail(f"the name of each column must be text; got {shown(name)}; write it as a str.")
        if flaw := text_flaw(name):
            row.fail(f"the name of each column must be text, but {flaw}.")
    return Row(where, number, without_nan({name: _plain(value) for name, value in values.items()}))


def _plain(value: Any) -> Any:
    """Return a value as files hold it: lists, also of sets, sorted; mappings, and the numbers of Python."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    value = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    value = as_objects(value).tolist() if hasattr(value, "__array__") else value
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else as_plain(value)


def _refused(given: Any) -> UserError:
    """Return the error of what holds no rows."""
    kind = type(given).__name__
    if _is_of(given, "polars", "LazyFrame"):
        return UserError(
            "A data frame must hold its rows; got a LazyFrame, which has yet to find them; give df.collect()."
        )
    if _is_of(given, "datasets", "IterableDataset") or _is_of(given, "datasets", "IterableDatasetDict"):
        return UserError(
            f"A dataset must have all its rows at hand; got an {kind}; give some of them: list(dataset.take(1000))."
        )
    return UserError(
        f"A task must be a path, a name, a kshot.Task or rows; got {kind}; give a folder, a file that ends in "
        f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, builtin:NAME or hf://NAME, or rows: a data frame of pandas or "
        "polars, a datasets.Dataset, a list of mappings, or {'train': rows, 'test': rows}."
    )
