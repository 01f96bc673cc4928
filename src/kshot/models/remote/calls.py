"""Many requests at once: each answer is handed over as it arrives, to the thread that asked."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Timer
from typing import Any, TypeVar

from kshot.models.remote.service import loop

T = TypeVar("T")
_log = logging.getLogger(__name__)  # its warnings go to stderr, unless a user of the library says otherwise


def wait_for(asked: Awaitable[T]) -> T:
    """Return what is awaited; in the loop's own thread, so that it works in whatever loop the caller may be."""

    async def one() -> T:
        return await asked

    return asyncio.run_coroutine_threadsafe(one(), loop()).result()


@dataclass(frozen=True)
class _Ended:
    """A job that has ended; its worker goes on when the answer is kept."""

    key: str
    value: Any
    error: BaseException | None
    is_kept: asyncio.Event


def ask_all(
    jobs: Mapping[str, Callable[[], Awaitable[T]]],
    *,
    at_once: int,
    keep: Callable[[str, T], None],
    tell: Callable[[str], None],
    patience: float,
) -> None:
    """Do all jobs, and return when they are done.

    What was paid for is kept: when something is raised, here or by `tell`, no job begins any more, and the answers of
    those that are under way are waited for and handed to `keep` before it is raised. A job begins only where the answer
    before it is kept: whoever kills the process loses at most `at_once` of them. Who interrupts it, by Ctrl-C or
    SIGTERM, is told so, and waits for `patience` at most.

    Args:
        jobs: By their keys.
        at_once: How many are under way at most.
        keep: Told each key with its answer, in the calling thread.
        tell: Told the key after that.
        patience: Seconds that an interrupt waits for what is under way.
    """
    ended: SimpleQueue[_Ended | None] = SimpleQueue()
    todo = iter(jobs.items())
    is_over = False

    async def worker() -> None:
        nonlocal is_over
        for key, job in todo:
            if is_over:
                return
            is_kept = asyncio.Event()
            try:
                ended.put(_Ended(key, await job(), None, is_kept))
            except Exception as error:
                is_over = True
                ended.put(_Ended(key, None, error, is_kept))
            await is_kept.wait()

    async def work() -> None:
        try:
            await asyncio.gather(*(worker() for _ in range(min(at_once, len(jobs)))))
        finally:
            ended.put(None)

    def take(one: _Ended) -> None:
        try:
            if one.error is None:
                keep(one.key, one.value)
        finally:
            loop().call_soon_threadsafe(one.is_kept.set)

    working = asyncio.run_coroutine_threadsafe(work(), loop())
    try:
        while one := ended.get():
            take(one)
            if one.error:
                raise one.error
            tell(one.key)
    except BaseException as error:
        is_over = True
        if isinstance(error, Exception):
            _take_all(ended, take)
        else:
            _log.warning("stopping: answers that are under way are waited for, %g s at most, and kept", patience)
            timer = Timer(patience, working.cancel)
            timer.daemon = True
            timer.start()
            try:
                _take_all(ended, take)
            finally:
                timer.cancel()
        raise
    finally:
        working.cancel()  # where an answer could not be kept


def _take_all(ended: "SimpleQueue[_Ended | None]", take: Callable[[_Ended], None]) -> None:
    """Take all that ends until nothing is under way."""
    while one := ended.get():
        take(one)
