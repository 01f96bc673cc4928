"""Run `adapt` by an API in forked processes, for a server that kills them; used by test_faults.py.

Everything is imported once, by a run without an API. For each line of stdin, JSON [task, model, run folder, settings],
the number of a fork is printed, which adapts, and then how it ended.
"""

import json
import os
import sys

import kshot
from kshot.core.types import Task


def main() -> None:
    task, folder = sys.argv[1:]
    kshot.adapt(Task.load(task), "scripted", recipes="zero-shot,bm25", shots=4, limit=8, out=folder)
    for line in sys.stdin:
        task, model, folder, settings = json.loads(line)
        process = os.fork()
        if process == 0:
            kshot.adapt(Task.load(task), model, out=folder, **settings)
            os._exit(0)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)


if __name__ == "__main__":
    main()
