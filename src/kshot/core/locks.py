"""Locks that a process may be forked under: who forks waits until nobody is in the middle of anything.

A child has the memory as it was, but none of the other threads: a lock that one of them held would stay locked for
ever, and a backbone that was being changed would stay changed. So all locks are taken before a fork, from the outer to
the inner, as the threads take them that hold several.
"""

import os
from contextlib import ContextDecorator
from threading import Lock, RLock
from weakref import WeakSet

# An adapted model; loading models; what else a process has one of; a backbone
ADAPTED, MODELS, PROCESS, BACKBONE = range(4)


class SharedLock(ContextDecorator):
    """A lock that a thread can take again while it holds it.

    Args:
        rank: A thread that holds several takes those of lower rank first.
    """

    def __init__(self, rank: int):
        self.rank = rank
        self._lock = RLock()
        with _LISTING:
            _ALL.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_LISTING, _ALL = Lock(), WeakSet[SharedLock]()
_HELD: list[SharedLock] = []  # while a process is forked


def _take_all() -> None:
    while True:
        with _LISTING:  # never held while waiting: who makes a lock may hold others
            known = sorted(_ALL, key=lambda lock: lock.rank)
        for lock in known:
            lock.__enter__()
        _LISTING.acquire()
        if set(known) >= set(_ALL):
            _HELD[:] = known
            return
        _LISTING.release()  # one was made in the meantime
        for lock in reversed(known):
            lock.__exit__()


def _release_all() -> None:
    while _HELD:
        _HELD.pop().__exit__()
    _LISTING.release()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to do
    os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)

LOADING = SharedLock(MODELS)  # transformers changes torch's default dtype while it loads a model
ONE_THREAD = SharedLock(PROCESS)  # who changes how many threads compute puts it back before the next one does
