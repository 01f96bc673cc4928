"""Rows of Parquet files, through pyarrow."""

from pathlib import Path

from kshot.core.errors import UserError, missing_extra
from kshot.tasks.missing import without_nan
from kshot.tasks.rows import Row


def read_parquet(file: Path) -> tuple[Row, ...]:
    """Read all rows of a Parquet file; nested values become lists and dictionaries.

    Raises:
        UserError: The file cannot be read, names a column twice, or has no rows; or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "data", str(file)) from None
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{file} must name each column once; '{twice[0]}' is there twice.")
            rows = opened.read().to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # a text in it need not be UTF-8
        reason = (str(error) or "it is damaged").splitlines()[0].rstrip(".")
        raise UserError(f"{file} must be a Parquet file that can be read, but {reason}; save it again.") from None
    if not rows:
        raise UserError(f"{file} has no rows; it must hold one example a row.")
    return tuple(Row(str(file), number, without_nan(values)) for number, values in enumerate(rows, 1))
