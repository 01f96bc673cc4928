"""Rows of Parquet files, through pyarrow.

A small file can stand for very much, as equal values are written once. So what it says of its size is looked at before
anything is read, and texts are counted before they are spelled out.
"""

from pathlib import Path
from typing import Any

from kshot.core.errors import UserError, missing_extra
from kshot.core.given_files import opened
from kshot.tasks.missing import without_nan
from kshot.tasks.rows import Row
from kshot.tasks.text_file import MOST_BYTES, MOST_ROWS, cannot_be_read

_AT_ONCE = 1024  # rows
_VALUE_BYTES = 32  # of anything in Python
_NUMBERED = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"}  # encodings that pyarrow can leave so


def read_parquet(file: Path) -> tuple[Row, ...]:
    """Read all rows of a Parquet file; nested values become lists and dictionaries.

    Raises:
        UserError: The file cannot be read, is too large, names a column twice, or has no rows; or pyarrow is not
            installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "data", str(file)) from None
    try:
        stream = opened(file)
    except OSError as error:
        raise cannot_be_read(str(file), error) from None
    try:
        with stream, pyarrow.parquet.ParquetFile(stream) as found:
            names = found.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{file} must name each column once; '{twice[0]}' is there twice.")
            rows = _rows(file, pyarrow, stream, found)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # a text in it need not be UTF-8
        reason = (str(error) or "it is damaged").splitlines()[0].rstrip(".")
        raise UserError(f"{file} must be a Parquet file that can be read, but {reason}; save it again.") from None
    if not rows:
        raise UserError(f"{file} has no rows; it must hold one example a row.")
    return tuple(Row(str(file), number, without_nan(values)) for number, values in enumerate(rows, 1))


def _rows(file: Path, pyarrow: Any, stream: Any, found: Any) -> list[dict[str, Any]]:
    """Return the values of all rows; texts are read as numbers of equal ones until their size is known."""
    chunks = [
        found.metadata.row_group(i).column(j)
        for i in range(found.metadata.num_row_groups)
        for j in range(found.metadata.num_columns)
    ]
    columns = [found.schema.column(i) for i in range(found.metadata.num_columns)]
    if (n := found.metadata.num_rows) > MOST_ROWS:
        raise UserError(f"{file} must have at most {MOST_ROWS:,} rows; it has {n:,}. Give a sample of them.")
    widths = {column.path: max(_VALUE_BYTES, column.length) for column in columns}
    n_bytes = sum(c.total_uncompressed_size + widths[c.path_in_schema] * c.num_values for c in chunks)
    _check(file, n_bytes)
    others = [c for c in chunks if not _NUMBERED.issuperset(c.encodings)]
    texts = {column.path for column in columns if column.physical_type == "BYTE_ARRAY" and _is_text(column)}
    texts -= {c.path_in_schema for c in others}
    largest = max((c.total_uncompressed_size for c in others), default=0)  # and no value of theirs is larger
    at_once = max(1, min(_AT_ONCE, MOST_BYTES // max(1, largest)))
    rows, n_bytes = list[dict[str, Any]](), 0
    stream.seek(0)
    with pyarrow.parquet.ParquetFile(stream, read_dictionary=sorted(texts)) as by_number:
        for batch in by_number.iter_batches(at_once):
            n_bytes += sum(_spelled_out(pyarrow, column) for column in batch.columns)
            _check(file, n_bytes)
            rows += batch.to_pylist()
    return rows


def _check(file: Path, n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise UserError(
            f"{file} must hold at most {MOST_BYTES / 1e6:.0f} MB when it is unpacked; it holds {n_bytes / 1e6:,.0f} MB "
            "or more. Give a sample of its rows."
        )


def _is_text(column: Any) -> bool:
    return column.logical_type.type in ("STRING", "JSON", "NONE")


def _spelled_out(pyarrow: Any, values: Any) -> int:
    """Return how many bytes the texts in an array have in all."""
    kind = values.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(values.dictionary)
        return pyarrow.compute.sum(lengths.take(values.indices)).as_py() or 0
    if pyarrow.types.is_struct(kind):
        return sum(_spelled_out(pyarrow, values.field(i)) for i in range(kind.num_fields))
    if pyarrow.types.is_map(kind):
        return _spelled_out(pyarrow, values.keys) + _spelled_out(pyarrow, values.items)
    if pyarrow.types.is_nested(kind):  # lists
        return _spelled_out(pyarrow, values.flatten())
    return values.nbytes
