"""Run `adapt` in forked processes and kill each one at the event it is told; used by test_kill_resume.py.

Torch is imported once, so that a kill costs a fraction of a second. For each line of stdin, JSON [run folder, n], a
fork adapts and is killed at its n-th event; its status is printed.
"""

import json
import os
import signal
import sys
from io import StringIO
from types import FrameType
from typing import Any

import kshot
import kshot.reports.html
from kshot.core.progress import Silence
from kshot.core.types import Task

# Python's calls to C that change files, and those that ask SQLite to
CHANGES = {"open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "executemany", "executescript"}


class Events(Silence):
    """Kills this process at the n-th event: the start or end of a call that changes a file, or a step of progress."""

    def __init__(self, n: int):
        self.left = n

    def advance(self, n: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def profile(self, frame: FrameType, what: str, function: Any) -> None:
        if what not in ("c_call", "c_return") or function.__name__ not in CHANGES:
            return
        if not isinstance(function.__self__, str | StringIO):  # str.replace, and what is written in memory
            self.advance(1)


def main() -> None:
    task, settings = Task.load(sys.argv[1]), json.loads(sys.argv[2])
    model = kshot.load_model("tiny")
    kshot.reports.html.page = lambda record: "the page"  # drawing it makes a million calls and changes no file
    for line in sys.stdin:
        folder, n = json.loads(line)
        process = os.fork()
        if process == 0:
            events = Events(n)
            sys.setprofile(events.profile)
            kshot.adapt(task, model, out=folder, progress=events, **settings)
            os._exit(0)
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    main()
