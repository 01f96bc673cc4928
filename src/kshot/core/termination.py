"""SIGTERM, as Slurm, Docker and `kill` send it, ends work as Ctrl-C does: what has to be written is written first."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_AGAIN_S = 0.01


class TerminatedError(KeyboardInterrupt):
    """SIGTERM asks the process to end: it cleans up as after Ctrl-C."""


def interrupt(*_: object) -> NoReturn:
    """Handle SIGTERM; more of them are ignored, as they would stop what the first one lets be written."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _send_again_where_lost()
    raise TerminatedError


def _send_again_where_lost() -> None:
    """Send SIGTERM once more where Python drops what is raised, as in `__del__` and while garbage is collected."""
    before = sys.unraisablehook

    def dropped(said: Any) -> None:
        if said.exc_type is not TerminatedError:
            before(said)
            return
        sys.unraisablehook = before
        signal.signal(signal.SIGTERM, interrupt)
        later = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM))  # here it would be dropped too
        later.daemon = True
        later.start()

    sys.unraisablehook = dropped


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt what is inside, and then end the process as it would have at once.

    A handler that somebody else has set stays; only the main thread can set one.
    """
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        was_sent = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if was_sent:
            os.kill(os.getpid(), signal.SIGTERM)
