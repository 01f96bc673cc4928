"""Errors of the disk, whoever meets them first: it is full or broken, cannot be written, or too many files are open."""

import errno
import os
import re

_FAULTS = {
    getattr(errno, name, None)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE", "EMFILE", "ENFILE")
} - {None}  # fmt: skip
_IN_RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors and tokenizers say it


def disk_fault(error: BaseException) -> str | None:
    """Return what the system says of its disk, where an error is, or comes from, an error of it; else None."""
    at: BaseException | None = error
    while at is not None:
        if (number := _number(at)) in _FAULTS:
            return os.strerror(number)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return None


def _number(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    found = _IN_RUST.search(str(error))
    return int(found[1]) if found else 0
