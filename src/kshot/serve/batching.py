"""One thread asks the model; what waits meanwhile is asked together, so that it shares what it has in common."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from math import ceil
from threading import Condition, Thread
from time import monotonic
from typing import Protocol

from kshot.core.errors import KshotError
from kshot.core.types import Example, Prediction

MOST_WAITING, MOST_TOGETHER = 256, 32  # inputs
_GATHERING, _MOST_GATHERING = 0.1, 0.02  # of the last call's time; seconds


class Answering(Protocol):
    """What is served: of an `AdaptedModel` that it answers."""

    def predictions(self, inputs: Sequence[Example], /) -> list[Prediction]:
        """Return a prediction for each input."""
        ...


class BusyError(Exception):
    """Too much waits already; `retry_after` are the seconds after which there should be room."""

    def __init__(self, retry_after: int):
        super().__init__(f"too much waits; again in {retry_after} s")
        self.retry_after = retry_after


class StoppingError(Exception):
    """The server is ending, and takes nothing new."""


@dataclass(eq=False)
class _Job:
    examples: Sequence[Example]
    answers: "Future[list[Prediction]]"


class Batcher:
    """Answers inputs in the order in which they come, many in one call; of every thread, without waiting for others.

    Args:
        model: What answers; asked by one thread alone.
        most_waiting: Inputs that may wait, beside those that are being answered.
        most_together: Inputs in one call; a request with more than these is asked in a call of its own.
        told: Called with the number of inputs and the seconds of each call.
    """

    def __init__(
        self,
        model: Answering,
        *,
        most_waiting: int = MOST_WAITING,
        most_together: int = MOST_TOGETHER,
        told: Callable[[int, float], None] = lambda n, seconds: None,
    ):
        self._model, self._told = model, told
        self._most_waiting, self._most_together = most_waiting, most_together
        self._jobs = deque[_Job]()
        self._changed = Condition()
        self._stopping = False
        self._seconds_each = 0.0  # of late
        self._last = (0, 0.0)  # inputs and seconds of the last call
        self._thread = Thread(target=self._work, name="kshot-serve", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that wait, beside those that are being answered."""
        with self._changed:
            return self._n_waiting()

    def submit(self, examples: Sequence[Example]) -> "Future[list[Prediction]]":
        """Put inputs at the end of the queue; who cancels the result takes them out of it.

        Raises:
            BusyError: There is no room for them. A request with more than there ever is room for waits for an empty
                queue.
            StoppingError: `stop` was called.
        """
        with self._changed:
            if self._stopping:
                raise StoppingError
            n = self._n_waiting()
            if n and n + len(examples) > self._most_waiting:
                raise BusyError(max(1, ceil(self._seconds_each * n)))
            job = _Job(examples, Future())
            self._jobs.append(job)
            self._changed.notify()
        return job.answers

    def stop(self) -> None:
        """Answer what waits, take nothing new, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _n_waiting(self) -> int:
        return sum(len(job.examples) for job in self._jobs if not job.answers.cancelled())

    def _work(self) -> None:
        while jobs := self._next():
            examples = [e for job in jobs for e in job.examples]
            began = monotonic()
            self._answer(jobs, examples)
            seconds = monotonic() - began
            self._seconds_each += (seconds / len(examples) - self._seconds_each) / 4
            self._last = len(examples), seconds
            self._told(len(examples), seconds)

    def _next(self) -> list[_Job]:
        """Return the jobs that are answered together next; none when all is done and nothing new will come.

        Who has just got an answer asks again at once. So that these are not asked in a call of their own beside a small
        one, which would take nearly as long, it waits a little for as many as there were the last time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            n, seconds = self._last
            gathered = partial(self._has, min(n, self._most_together))
            self._changed.wait_for(gathered, min(_GATHERING * seconds, _MOST_GATHERING))
            jobs: list[_Job] = []
            while True:
                while self._jobs and (not jobs or self._fits(jobs)):
                    job = self._jobs.popleft()
                    if job.answers.set_running_or_notify_cancel():
                        jobs.append(job)
                if jobs or self._stopping:
                    return jobs
                self._changed.wait()

    def _has(self, n: int) -> bool:
        return self._stopping or self._n_waiting() >= n

    def _fits(self, jobs: Sequence[_Job]) -> bool:
        return sum(len(job.examples) for job in (*jobs, self._jobs[0])) <= self._most_together

    def _answer(self, jobs: Sequence[_Job], examples: Sequence[Example]) -> None:
        try:
            found = iter(self._model.predictions(examples))
        except KshotError as error:  # of one of them, which others must not suffer from
            if len(jobs) == 1:
                jobs[0].answers.set_exception(error)
                return
            for job in jobs:
                self._answer([job], job.examples)
        except Exception as error:
            for job in jobs:
                job.answers.set_exception(error)
        else:
            for job in jobs:
                job.answers.set_result([next(found) for _ in job.examples])
