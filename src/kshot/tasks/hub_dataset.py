"""Datasets through the `datasets` library: hf://NAME[:CONFIG][@TRAIN[,TEST]].

NAME is an id of the hub, as stanfordnlp/imdb, or a folder that the library can read, as /path/folder or ./folder.
Without names of splits the train rows are the split `train`, and the test rows the split `test`, else `validation`, if
there is one with answers. Numbers of classes become the classes' names. Code that comes with a dataset is never run.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from kshot.core.errors import UserError, missing_extra
from kshot.tasks.missing import without_nan
from kshot.tasks.rows import BadRow, Row, each_row
from kshot.tasks.tables import Table
from kshot.tasks.text_file import MOST_BYTES, MOST_ROWS

PREFIX = "hf://"
SOURCE = re.compile(r"hf://(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<train>[^:@,]+)(,(?P<test>[^:@,]+))?)?")
HUB_TIMEOUT_S = 10


@dataclass(frozen=True)
class HubDataset:
    """The train table, and the test table if there is one."""

    name: str
    tables: list[Table]
    notes: tuple[str, ...]


def read_hub_dataset(source: str, bad: list[BadRow] | None = None) -> HubDataset:
    """Read the splits of a dataset.

    Args:
        source: hf://NAME[:CONFIG][@TRAIN[,TEST]].
        bad: Rows that cannot be read are added to it.

    Raises:
        UserError: The source is not written like that, the dataset or a split is not there, the hub cannot be reached
            and the dataset is not in this machine's cache, or the library is not installed.
    """
    parts = SOURCE.fullmatch(source)
    if parts is None:
        raise UserError(f"'{source}' must be hf://NAME[:CONFIG][@TRAIN[,TEST]], as hf://stanfordnlp/imdb@train,test.")
    name, config = parts["name"], parts["config"]
    if name.startswith(("/", "./", "../")) and not os.path.isdir(name):
        raise UserError(f"{source} must name a folder that exists; there is no '{name}'.")
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets", "data", source) from None
    with _quiet(datasets):
        splits, from_cache = _splits(datasets, source, name, config)
        notes = ["the hub cannot be reached; the rows are those in this machine's cache"] if from_cache else []
        tables, more = tables_of_splits(source, splits, parts["train"] or "train", parts["test"], bad)
    short = Path(name).resolve().name if os.path.isdir(name) else name.rpartition("/")[2]
    return HubDataset(f"{short}-{config}" if config else short, tables, (*notes, *more))


def tables_of_splits(
    source: str, splits: Any, train: str = "train", test: str | None = None, bad: list[BadRow] | None = None
) -> tuple[list[Table], tuple[str, ...]]:
    """Return the tables of a dataset's splits, and notes on them.

    Args:
        source: What messages call the dataset.
        splits: Name to rows, as a `DatasetDict`.
        train: The split of the train rows.
        test: That of the test rows; None: test, else validation, if there is one with answers.
        bad: Rows that cannot be read are added to it.

    Raises:
        UserError: A split is not there, has no rows or too many.
    """
    notes = []
    if test is None:
        there = [s for s in ("test", "validation") if s in splits and s != train]
        test = next((s for s in there if not _hides_classes(splits[s])), None)
        notes += [f"the split '{s}' holds no answers" for s in there[: there.index(test) if test else None]]
        notes += [f"test rows are the split '{test}'"] if test else []
    return [_table(source, splits, split, bad) for split in (train, test) if split], tuple(notes)


def _splits(datasets: ModuleType, source: str, name: str, config: str | None) -> tuple[Any, bool]:
    """Return a mapping from a split's name to its rows, and whether it came from the cache for want of a hub."""
    folder = Path(name)
    is_folder = os.path.isdir(name)
    offline = not is_folder and not _hub_answers(name)
    try:
        if is_folder and (folder / "dataset_dict.json").exists():
            return datasets.load_from_disk(name), False
        if is_folder and (folder / "state.json").exists():
            return {"train": datasets.load_from_disk(name)}, False
        with _no_requests(datasets) if offline else nullcontext():
            return datasets.load_dataset(name, config), offline
    except ConnectionError:
        raise UserError(
            f"{source}: the hub cannot be reached, and '{name}' is not in this machine's cache; connect to the hub, or "
            "name a folder with its files, as hf:///path/to/folder."
        ) from None
    except Exception as error:  # the library lets through whatever its readers of formats raise
        reason = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        text = " ".join(str(reason or error).split("\n")[:2]).rstrip(". ")
        remedy = "; add the config, as hf://NAME:CONFIG" if "onfig" in text else ""
        raise UserError(f"{source} cannot be loaded: {text}{remedy}.") from None


def _table(source: str, splits: Any, split: str, bad: list[BadRow] | None) -> Table:
    if split not in splits:
        raise UserError(
            f"{source}: there is no split '{split}'; there is {', '.join(splits)}; choose with @TRAIN,TEST."
        )
    return dataset_table(f"{source} split {split}", splits[split], bad)


def dataset_table(where: str, rows: Any, bad: list[BadRow] | None = None) -> Table:
    """Return the rows of a `datasets.Dataset`, with the names of classes in place of their numbers.

    Args:
        where: What messages call it.
        rows: The dataset.
        bad: Rows that cannot be read are added to it.

    Raises:
        BadRowsError: Rows cannot be read, where there is no `bad`.
        UserError: There are no rows, or too many.
    """
    if not len(rows):
        raise UserError(f"{where} has no rows; it must hold one example a row.")
    if len(rows) > MOST_ROWS or rows.data.nbytes > MOST_BYTES:
        raise UserError(
            f"{where} must have at most {MOST_ROWS:,} rows and {MOST_BYTES / 1e6:.0f} MB; it has {len(rows):,} and "
            f"{rows.data.nbytes / 1e6:,.0f} MB. Save a sample of its rows as a file, and give that."
        )
    classes = {column: names for column, feature in rows.features.items() if (names := _names(feature))}

    def with_names(numbered: tuple[int, dict[str, Any]]) -> Row:
        row = Row(where, numbered[0], without_nan(numbered[1]))
        named = {column: _in_names(row, column, row.values[column], names) for column, names in classes.items()}
        return replace(row, values={**row.values, **named})

    # Through Arrow, so that images and sounds beside the text are not decoded.
    read = enumerate(rows.with_format("arrow")[:].to_pylist(), 1)
    return Table(where, tuple(each_row(read, with_names, bad)), fixed=True)


def _classes(rows: Any) -> list[str]:
    """Return the columns that hold numbers of classes."""
    return [column for column, feature in rows.features.items() if type(feature).__name__ == "ClassLabel"]


def _hides_classes(rows: Any) -> bool:
    """Return whether all rows have the class -1, as those of hidden test sets have."""
    return any(set(rows.with_format("arrow")[:][column].to_pylist()) == {-1} for column in _classes(rows))


def _names(feature: Any) -> list[str] | None:
    """Return the names of the classes that a column, or lists in it, hold numbers of; None of other columns."""
    inner = getattr(feature, "feature", feature)
    return inner.names if type(inner).__name__ == "ClassLabel" else None


def _in_names(row: Row, column: str, number: Any, names: list[str]) -> Any:
    """Return the name of a class, or names of several in a list."""
    if isinstance(number, list):
        return [_in_names(row, column, one, names) for one in number]
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(names):
        row.fail(
            f"'{column}' must be one of the classes 0..{len(names) - 1}; got {number}, as rows without a label "
            "have; leave such rows out, or choose splits with labels, as in hf://NAME@train,validation."
        )
    return names[number]


def _hub_answers(name: str) -> bool:
    """Ask the hub once: the library itself would try for half a minute where there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, ValueError):
        return True  # it refuses, or the name is none; the library says why
    except Exception:  # no network, no such host, too slow, offline mode: the client's own errors differ by version
        return False
    return True


@contextmanager
def _no_requests(datasets: ModuleType) -> Iterator[None]:
    """Let the library look in its cache only; it reads HF_HUB_OFFLINE when it is imported, so not from here."""
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """Keep progress bars, log lines and warnings from stderr; what goes wrong is raised."""
    from huggingface_hub import utils

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    barred = [library for library in (datasets, utils) if not library.are_progress_bars_disabled()]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        for library in barred:
            library.disable_progress_bars()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for library in barred:
            library.enable_progress_bars()
