"""Folders of texts whose subfolders are named as labels: `LABEL/*.txt`, or `train/LABEL/*.txt` and `test/LABEL/*.txt`.

Each file is one text, without the blank space around it, and its folder's name is the label.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.seeding import digest
from kshot.tasks.missing import trimmed
from kshot.tasks.packed import PACKED
from kshot.tasks.rows import BadRow, Row, text_flaw
from kshot.tasks.tables import Table
from kshot.tasks.text_file import MOST_BYTES, MOST_ROWS, cannot_be_read, read_text

ENDING = ".txt"
NO_LABELS = ("train", "test", "validation", "valid", "val", "dev", "unlabelled", "unlabeled", "unsup")
FEWEST = 2  # labels, so that no other folder is taken for one of texts
_MOST_NAMED = 5


@dataclass(frozen=True)
class LabelFolders:
    """The texts of a folder.

    Attributes:
        train: Its rows have an input, an output and an id, the file's path in the folder.
        test: None where there is no such folder.
        note: How they were read, for the user to read.
    """

    train: Table
    test: Table | None
    note: str


@dataclass(frozen=True)
class _Labels:
    """A folder's subfolders that hold texts, and how much in it is not read."""

    files: Mapping[str, list[str]]
    unread: int


def read_label_folders(folder: Path, bad: list[BadRow]) -> LabelFolders | None:
    """Read a folder of texts; None where it has fewer than two subfolders with texts, and `train` has too.

    Args:
        folder: One without a file of train rows.
        bad: Texts that cannot be used are added to it.

    Raises:
        UserError: A folder cannot be read, or there are too many texts.
    """
    splits = {name.lower(): folder / name for name in _folders(folder) if name.lower() in ("train", "test")}
    place = splits.get("train", folder)
    labels = _labels(place)
    if len(labels.files) < FEWEST:
        return None
    tables, unread = [_table(folder, place, labels, bad)], labels.unread
    if place != folder and "test" in splits and (tests := _labels(splits["test"])).files:
        tables.append(_table(folder, splits["test"], tests, bad))
        unread += tests.unread
    names = ", ".join([*list(labels.files)[:_MOST_NAMED], *["…"][: len(labels.files) > _MOST_NAMED]])
    note = f"read as texts in folders of their labels, one a {ENDING} file: {len(labels.files)} labels ({names})"
    if unread:
        note += f"; {unread} other file{'s' * (unread > 1)} or folder{'s' * (unread > 1)} beside the texts not read"
    return LabelFolders(tables[0], tables[1] if tables[1:] else None, note)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Return what is in a folder, in the order of the names, but what is hidden."""
    try:
        with os.scandir(folder) as found:
            yield from sorted((e for e in found if not e.name.startswith((".", "__"))), key=lambda e: e.name)
    except OSError as error:
        raise cannot_be_read(str(folder), error) from None


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if entry.is_dir()]


def _labels(folder: Path) -> _Labels:
    files, unread, n = dict[str, list[str]](), 0, 0
    for name in _folders(folder):
        inside = [entry.name for entry in _entries(folder / name)]
        texts = [file for file in inside if file.lower().endswith((ENDING, ENDING + PACKED))]
        if name.lower() in NO_LABELS or not texts:
            unread += name.lower() in NO_LABELS and bool(texts)
            continue
        if flaw := text_flaw(name):
            raise UserError(f"{folder} must have subfolders named as labels, but of {name!r}: {flaw}. Rename it.")
        if (n := n + len(texts)) > MOST_ROWS:
            raise UserError(f"{folder} must hold at most {MOST_ROWS:,} texts; it has more. Give a sample of them.")
        files[name], unread = texts, unread + len(inside) - len(texts)
    return _Labels(files, unread)


def _table(folder: Path, place: Path, labels: _Labels, bad: list[BadRow]) -> Table:
    """Return the texts of a split as rows in an order that mixes the labels, and is the same on every machine."""
    files = [
        (_id(folder, place / label / name), label, name) for label, names in labels.files.items() for name in names
    ]
    rows, n_bytes = [], 0
    for number, (name, label, file_name) in enumerate(sorted(files, key=lambda file: digest(file[0])), 1):
        file = place / label / file_name
        try:
            text = read_text(file)
            _check(file, text)
        except UserError as error:
            bad.append(BadRow(str(place), number, str(error)))
            continue
        if (n_bytes := n_bytes + len(text.encode("utf-8", "replace"))) > MOST_BYTES:
            raise UserError(
                f"{place} must hold texts of at most {MOST_BYTES / 1e6:.0f} MB together; it has more. Give a sample of "
                "them."
            )
        rows.append(Row(str(place), number, {"input": text.strip(), "output": label, "id": name}))
    return Table(str(place), tuple(rows), fixed=True)


def _id(folder: Path, file: Path) -> str:
    """Return a file's path in the folder; bytes of its name that are no UTF-8 are spelled out."""
    return file.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def _check(file: Path, text: str) -> None:
    if not trimmed(text):
        raise UserError(f"{file} must hold a text; it is empty. Fill it in, or take it away.")
    if flaw := text_flaw(text):
        raise UserError(f"{file} must hold a text that can be used, but {flaw}.")
