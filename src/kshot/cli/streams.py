"""The standard streams: printing never fails for an encoding, and ends as in any other tool where nobody reads on."""

import io
import os
import signal
import sys
from typing import Any

from kshot.core.errors import StorageError
from kshot.core.termination import interrupt

READER_GONE, TERMINATED = 128 + 13, 128 + 15  # as a shell says it of who was ended by SIGPIPE, or SIGTERM


class _Results(io.FileIO):
    """Where results go: what cannot be written ends the process, and after that nothing is written any more."""

    has_failed = False

    def write(self, data: Any, /) -> int | None:
        if self.has_failed:  # the interpreter writes out what is left
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self.has_failed = True
            raise SystemExit(READER_GONE) from None
        except OSError as error:
            self.has_failed = True
            raise StorageError(
                f"Results must be printed where they can be written; stdout says: {error.strerror}. Print them into a "
                "file on a disk with space."
            ) from None


class _Remarks(io.FileIO):
    """Where all else goes, which no run ends for."""

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def take_over() -> None:
    """Take over stdout, stderr and SIGTERM for the command line of this process."""
    signal.signal(signal.SIGTERM, interrupt)
    if os.name == "nt":
        return
    # A file that is opened later must not get the number of a stream that is closed: it would be printed into
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = _text(sys.stdout, _Results(1, "w", closefd=False))
    sys.stderr = _text(sys.stderr, _Remarks(2, "w", closefd=False))


def _text(before: Any, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a stream of text in the encoding that it had before; what that cannot say is written as an escape."""
    buffered, encoding = io.BufferedWriter(raw), before.encoding if before else "utf-8"
    by_lines = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(buffered, encoding=encoding, errors="backslashreplace", line_buffering=by_lines)
