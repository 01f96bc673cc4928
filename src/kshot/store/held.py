"""Files and folders that one process holds, so that others keep off; whatever a killed process held is free again.

Where there are no such locks (Windows, some network drives) nobody is kept off.
"""

import errno
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS)
_NOBODY = -1  # who holds what cannot be locked


def try_to_hold(place: Path, *, wait: bool = False) -> int | None:
    """Hold a file or folder for as long as this process lives, or until `let_go`.

    Args:
        place: It must be there; it is not changed.
        wait: Wait until whoever holds it lets go.

    Returns:
        What to give to `let_go`; None if somebody else holds it, another thread of this process included, or has taken
        it away.
    """
    if find_spec("fcntl") is None:
        return _NOBODY
    fcntl = import_module("fcntl")
    try:
        opened = os.open(place, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is(place, opened):
            os.close(opened)
            return None
    except BlockingIOError:
        os.close(opened)
        return None
    except OSError as error:
        os.close(opened)
        if error.errno not in _NO_LOCKS:
            raise
        return _NOBODY
    return opened


def let_go(holding: int | None) -> None:
    """Let others have what was held."""
    if holding is not None and holding != _NOBODY:
        fcntl = import_module("fcntl")
        fcntl.flock(holding, fcntl.LOCK_UN)  # closed alone, it would be held on by who was forked in the meantime
        os.close(holding)


def is_mine(holding: int | None) -> bool:
    """Return whether something is held, so that it is certain that nobody else is at work on it."""
    return holding not in (None, _NOBODY)


def _is(place: Path, opened: int) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), place.stat())
    except FileNotFoundError:
        return False
