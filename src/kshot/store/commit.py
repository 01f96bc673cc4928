"""What a finished run leaves behind counts as a whole: all of it takes its place, or nothing.

It is filled into a folder of its own, which counts once it is called `.finished`; from there its pieces go to their
places. Whoever comes to the run after a kill finishes that first, so nobody ever sees pieces of two runs together.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kshot.core.json_text import to_json
from kshot.store.files import collect, discard, put_in_place, sync, writable, write_folder
from kshot.store.held import let_go, try_to_hold
from kshot.store.run_folder import MANIFEST, UNFINISHED, read_object

FINISHED, _FOLDERS = ".finished", ".folders.json"


def commit(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace what a run has left behind.

    Args:
        folder: Of the run; nobody else commits there.
        write: Fills a folder with all that the run leaves behind.

    Raises:
        StorageError: The disk is full or the folder cannot be written: what was there before is still there.
    """

    def fill(staged: Path) -> None:
        write(staged)
        marks = {piece.name: _content(piece) for piece in staged.iterdir() if piece.is_dir()}
        (staged / _FOLDERS).write_text(to_json(marks), "utf-8")

    settle(folder)
    write_folder(folder / FINISHED, {}, more=fill)
    settle(folder)


def settle(folder: Path) -> None:
    """Finish what a killed process has begun to put in place in a run folder; other folders are left as they are."""
    with settled(folder):
        pass


@contextmanager
def settled(folder: Path) -> Iterator[None]:
    """Keep what a run has left behind from being replaced while it is read, all of one commit.

    Raises:
        StorageError: A killed process has begun to put it in place, and the folder cannot be written.
    """
    if not os.access(folder / MANIFEST, os.R_OK):
        yield
        return
    holding = try_to_hold(folder / MANIFEST, wait=True)
    try:
        if (folder / FINISHED).exists():
            with writable(folder):
                _put_in_place(folder / FINISHED, folder)
        collect(folder)
        yield
    finally:
        let_go(holding)


def _put_in_place(staged: Path, folder: Path) -> None:
    """Move all pieces to their places; where that was begun, go on with it."""
    marks = read_object(staged / _FOLDERS) or {}
    for piece in sorted(staged.iterdir()):
        place = folder / piece.name
        if piece.name == _FOLDERS:
            continue
        if not piece.is_dir():
            piece.replace(place)
        elif not place.exists() or _content(place) != marks.get(piece.name):
            put_in_place(piece, place)
        # else it is the older one, in exchange for which the new one has taken its place
    (folder / UNFINISHED).unlink(missing_ok=True)
    sync(folder)
    discard(staged)


def _content(folder: Path) -> str:
    """Identify what is in a folder."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as opened:
            inside = hashlib.file_digest(opened, "sha256").hexdigest()
        found.update(f"{file.relative_to(folder).as_posix()!r} {inside}\n".encode())
    return found.hexdigest()
