"""Many requests at once: each answer is handed over as it arrives, to the thread that asked."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from queue import SimpleQueue
from typing import Any, TypeVar

from kshot.models.remote.service import loop

T = TypeVar("T")


def wait_for(asked: Awaitable[T]) -> T:
    """Return what is awaited; in the loop's own thread, so that it works in whatever loop the caller may be."""

    async def one() -> T:
        return await asked

    return asyncio.run_coroutine_threadsafe(one(), loop()).result()


def ask_all(
    jobs: Mapping[str, Callable[[], Awaitable[T]]],
    *,
    at_once: int,
    keep: Callable[[str, T], None],
    tell: Callable[[str], None],
) -> None:
    """Do all jobs, and return when they are done.

    What was paid for is kept: when something is raised, here or by `tell`, no job begins any more, and the answers of
    those that are under way are waited for and handed to `keep` before it is raised.

    Args:
        jobs: By their keys.
        at_once: How many are under way at most.
        keep: Told each key with its answer, in the calling thread.
        tell: Told the key after that.
    """
    answers: SimpleQueue[tuple[str, Any, BaseException | None] | None] = SimpleQueue()
    todo = iter(jobs.items())
    is_over = False

    async def worker() -> None:
        nonlocal is_over
        for key, job in todo:
            if is_over:
                return
            try:
                answers.put((key, await job(), None))
            except Exception as error:
                is_over = True
                answers.put((key, None, error))

    async def work() -> None:
        try:
            await asyncio.gather(*(worker() for _ in range(min(at_once, len(jobs)))))
        finally:
            answers.put(None)

    asyncio.run_coroutine_threadsafe(work(), loop())
    try:
        while answer := answers.get():
            key, value, error = answer
            if error:
                raise error
            keep(key, value)
            tell(key)
    except BaseException:
        is_over = True
        while answer := answers.get():
            if answer[2] is None:
                keep(answer[0], answer[1])
        raise
