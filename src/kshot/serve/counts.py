"""What is counted for Prometheus: requests, how long they took, what waits, how much is asked together."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_INPUTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Counts:
    """The counters of one server.

    Attributes:
        cut_short: Requests that had come and were not answered, as the server ended.

    Args:
        waiting: Returns the inputs that wait.
    """

    cut_short = 0

    def __init__(self, waiting: Callable[[], int]):
        self._registry = CollectorRegistry()
        own: Any = {"registry": self._registry}
        ProcessCollector(**own)
        self._requests = Counter("kshot_requests", "Requests by endpoint and status.", ["endpoint", "status"], **own)
        self._seconds = Histogram(
            "kshot_request_seconds",
            "From the first byte of a request to its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            **own,
        )
        self._together = Histogram("kshot_batch_inputs", "Inputs asked together.", buckets=_INPUTS, **own)
        self._model = Histogram("kshot_batch_seconds", "The model's time for a batch.", buckets=_SECONDS, **own)
        self._unsure = Counter("kshot_abstained", "Answers that were none, as the model was not sure enough.", **own)
        Gauge("kshot_waiting_inputs", "Inputs that wait.", **own).set_function(waiting)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def batch(self, n: int, seconds: float) -> None:
        """Count inputs that were asked together."""
        self._together.observe(n)
        self._model.observe(seconds)

    def abstained(self) -> None:
        """Count an answer that is none."""
        self._unsure.inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self._registry)
