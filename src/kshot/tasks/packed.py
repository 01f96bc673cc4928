"""Files of rows that are packed with gzip: `.jsonl.gz` and its like.

A small archive can stand for very much, so it is unpacked in pieces, and no further than to the most that is read.
"""

import gzip
import zlib
from io import BytesIO
from pathlib import Path

from kshot.core.errors import UserError

PACKED = ".gz"
_START = b"\x1f\x8b"  # of every archive of gzip
_AT_ONCE = 1 << 20  # bytes


def is_packed(file: Path) -> bool:
    """Return whether a file's name says that it is packed."""
    return file.suffix.lower() == PACKED


def looks_packed(data: bytes) -> bool:
    """Return whether bytes begin as an archive of gzip does, as no text in UTF-8 can."""
    return data.startswith(_START)


def unpacked(data: bytes, most: int, source: str) -> bytes:
    """Return what an archive of gzip holds, also one of several parts.

    Args:
        data: The archive.
        most: It may hold so many bytes.
        source: What messages call it.

    Raises:
        UserError: It is none, is damaged or cut off, or holds more.
    """
    if not data.startswith(_START):
        raise UserError(
            f"{source} must be packed with gzip, as its name says, but it is not; take {PACKED} off its name, or pack "
            "it with gzip."
        )
    pieces, n = list[bytes](), 0
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as archive:
            while piece := archive.read(_AT_ONCE):
                if (n := n + len(piece)) > most:
                    raise UserError(
                        f"{source} must hold at most {most / 1e6:.0f} MB when it is unpacked; it holds more. Give a "
                        "sample of its rows."
                    )
                pieces.append(piece)
    except (OSError, EOFError, zlib.error) as error:
        what = "it ends too early" if isinstance(error, EOFError) else "it is damaged"
        raise UserError(
            f"{source} must be a whole archive of gzip, but {what}; copy it again, or pack its rows again."
        ) from None
    return b"".join(pieces)
