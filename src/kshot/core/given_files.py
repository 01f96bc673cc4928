"""Files that were given: only regular ones of a size that makes sense are read, as pipes and devices can be endless."""

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 64_000_000  # of a file that says how something is, and holds no rows
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def opened(file: Path) -> io.BufferedReader:
    """Open a regular file for reading, without waiting for anything.

    Raises:
        OSError: It cannot be opened, or is something else.
    """
    number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(number, "rb")
    os.close(number)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file", str(file))


def bytes_of(file: Path, most: int | None = MOST_BYTES) -> bytes:
    """Return what a regular file holds.

    Args:
        file: It may be changed by others meanwhile; then what is read may be neither the old nor the new.
        most: It holds so many bytes at most; None is for what kshot itself writes of any length.

    Raises:
        OSError: As `opened`, or it is larger.
    """
    with opened(file) as stream:
        if most is not None and os.fstat(stream.fileno()).st_size > most:
            raise too_large(most, str(file))
        return limited(stream, most, str(file))


def limited(stream: BinaryIO | io.BufferedIOBase, most: int | None, name: str) -> bytes:
    """Return all that a stream holds, or raise an OSError where that is more than `most` bytes."""
    data = stream.read() if most is None else stream.read(most + 1)
    if most is not None and len(data) > most:
        raise too_large(most, name)
    return data


def too_large(most: int, name: str) -> OSError:
    """Return the error of a file that holds more than is read of any."""
    return OSError(errno.EFBIG, f"it is larger than {most / 1e6:.0f} MB, the most that is read", name)


def text_of(file: Path, most: int | None = MOST_BYTES) -> str:
    """Return the text of a regular file in UTF-8; arguments and errors as `bytes_of`.

    Raises:
        UnicodeDecodeError: It is no text.
    """
    return bytes_of(file, most).decode("utf-8")
