"""What a finished run leaves behind counts as a whole: all of it takes its place, or nothing.

It is filled into a folder of its own, which counts once it is called `.finished`; from there its pieces go to their
places. Whoever comes to the run after a kill finishes that first, so nobody ever sees pieces of two runs together.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kshot.core.errors import UserError
from kshot.store.files import collect, discard, put_in_place, sync, writable, write_folder
from kshot.store.held import let_go, try_to_hold
from kshot.store.run_folder import (
    BESIDE_RESULTS,
    BEST,
    MANIFEST,
    REPORT,
    RESULTS,
    UNFINISHED,
    forget_killed,
    read_object,
)
from kshot.store.summed import SUM, fits, sum_of_file, write_summed

FINISHED, _MARKS = ".finished", ".folders.json"
_PIECES = {BEST, RESULTS, REPORT, *BESIDE_RESULTS}
_KINDS = stat.S_IFDIR, stat.S_IFREG  # of what may be in a folder


def commit(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace what a run has left behind.

    Args:
        folder: Of the run; nobody else commits there.
        write: Fills a folder with all that the run leaves behind: `best`, and files of the record.

    Raises:
        StorageError: The disk is full or the folder cannot be written: what was there before is still there.
    """

    def fill(staged: Path) -> None:
        write(staged)
        write_summed(staged / _MARKS, {"pieces": {piece.name: _content(piece) for piece in staged.iterdir()}})

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
        UserError: What a killed process has begun to put in place is not as it left it; nothing is changed.
        StorageError: A killed process has begun to put it in place, and the folder cannot be written.
    """
    if not (os.access(folder / MANIFEST, os.R_OK) and (folder / MANIFEST).is_file()):
        yield
        return
    holding = try_to_hold(folder / MANIFEST, wait=True)
    try:
        if os.path.lexists(folder / FINISHED):
            with writable(folder):
                _put_in_place(folder / FINISHED, folder)
        collect(folder)
        forget_killed(folder)
        yield
    finally:
        let_go(holding)


def _put_in_place(staged: Path, folder: Path) -> None:
    """Move all pieces to their places; where that was begun, go on with it."""
    best = folder / BEST
    if best.is_symlink() or (best.exists() and not best.is_dir()):
        raise UserError(f"{best} must be a folder of the run, no link or file. Take it away and run the command again.")
    try:
        left = _not_in_place(staged, folder)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{staged} must hold what a run of kshot has left behind, and nothing else; {error}. Take it away, and "
            "repeat the run's command."
        ) from error
    for name in left:
        if name == BEST:
            put_in_place(staged / name, best)  # the older one then stands here
        else:
            (staged / name).replace(folder / name)
    (folder / UNFINISHED).unlink(missing_ok=True)
    sync(folder)
    discard(staged)


def _not_in_place(staged: Path, folder: Path) -> list[str]:
    """Return the names of the pieces that are still to be moved.

    Raises:
        ValueError: Something is not as a run has left it.
    """
    if not stat.S_ISDIR(staged.lstat().st_mode):
        raise ValueError("it is no folder")
    for place in staged.rglob("*"):
        name, kind = str(place.relative_to(staged)), stat.S_IFMT(place.lstat().st_mode)
        kinds = (stat.S_IFDIR,) if name == BEST else (stat.S_IFREG,) if place.parent == staged else _KINDS
        if kind not in kinds:
            raise ValueError(f"its {name} is a link, or not what it is called")
    found = read_object(staged / _MARKS) or {}
    marks = found.get("pieces")
    if not isinstance(marks, dict) or not fits(found, found.get(SUM)):
        raise ValueError(f"its {_MARKS} is not as kshot wrote it")
    if foreign := ({place.name for place in staged.iterdir()} - {_MARKS, *marks}) | (marks.keys() - _PIECES):
        raise ValueError(f"{min(foreign)} is none of it")
    left = [name for name in sorted(marks) if _content(staged / name) == marks[name]]
    for name in sorted(marks.keys() - left):
        if _content(folder / name) != marks[name]:
            raise ValueError(f"neither its {name} nor {folder / name} is as it was written")
    return left


def _content(piece: Path) -> str | None:
    """Identify what is in a file or folder; None where there is neither."""
    if not piece.is_dir():
        return sum_of_file(piece) if piece.is_file() else None
    found = hashlib.sha256()
    for file in sorted(file for file in piece.rglob("*") if file.is_file()):
        found.update(f"{file.relative_to(piece).as_posix()!r} {sum_of_file(file)}\n".encode())
    return found.hexdigest()
