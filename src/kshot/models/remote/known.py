"""Requests whose answers are known: whoever reads a service's probabilities wrongly is found out by them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kshot.core.errors import ModelError, NoAnswerError, RefusedError
from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.models.remote.route import Reading, Refusal, Route, Service

LEAST = 0.6  # probability of the known answer, among three
LEAST_MASS = 0.5  # on all three, where it is known
_WORDS = ("green", "seven", "table")
_READS = 3  # of an answer that lacks what it should have


def known_requests(in_messages: bool) -> list[tuple[ScoreRequest, int]]:
    """Return requests with the place of the right continuation: two that differ in it, so that chance fails."""
    return [(_in_messages(at) if in_messages else _in_text(at), at) for at in (0, 2)]


def _in_text(at: int) -> ScoreRequest:
    text = " ".join(["red blue", _WORDS[at]] * 4 + ["red blue"])
    return ScoreRequest(Prompt((Segment("query", text),)), tuple(f" {word}" for word in _WORDS))


def _in_messages(at: int) -> ScoreRequest:
    instruction = Segment("instruction", "Say the word that you are told to say, and nothing else.")
    asked = Segment("query", f"Say the word '{_WORDS[at]}'.")
    return ScoreRequest(Prompt((instruction, asked), spells_first_token=True), _WORDS)


async def read_again(
    route: Route, service: Service, request: ScoreRequest, waste: Callable[[], None] = lambda: None
) -> Reading:
    """Return what a route reads; where an answer lacks what it needs, it is asked again, as that may be chance.

    Args:
        route: Reads.
        service: Is asked.
        request: What is asked.
        waste: Told before it is asked again.
    """
    import stamina

    def again(error: Exception) -> bool:
        return isinstance(error, ModelError) and not isinstance(error, RefusedError | NoAnswerError)

    waits: Any = {"wait_initial": 0.1, "wait_max": 1.0, "wait_jitter": 0.1}
    async for attempt in stamina.retry_context(again, attempts=_READS, timeout=None, **waits):
        with attempt:
            if attempt.num > 1:
                waste()
            return await route.read(service, request)
    raise AssertionError("a context of retries ends with a result or an error")


async def why_wrong(route: Route, service: Service) -> str | None:
    """Return why a route cannot be trusted at a service, by requests whose answers are known; None if it can.

    It is a `Refusal` where the service answers none of them.

    Raises:
        NoAnswerError: The server cannot be reached.
    """
    for request, at in known_requests(route.in_messages):
        try:
            reading = await read_again(route, service, request)
        except RefusedError as error:
            return f"the server refuses it ({error.status}): {error.words}"
        except NoAnswerError:
            raise
        except ModelError as error:
            return str(error).rpartition(". ")[0]  # without its remedy, as other routes are tried
        if reading.refused is not None:
            return Refusal(f"the server refuses questions that it has not learnt, and says: {reading.refused}")
        log_probs = np.asarray(reading.log_probs, dtype=float)
        if log_probs.shape != (len(_WORDS),) or not np.isfinite(log_probs).all() or (log_probs > 1e-2).any():
            return f"what it reads are no log-probabilities: {log_probs.tolist()}"
        shares = np.exp(log_probs - np.logaddexp.reduce(log_probs))
        if shares[at] < LEAST:
            return f"of a word that is known it says {shares[at]:.2f}, and must say {LEAST} or more (chance is 0.33)"
        if reading.mass is not None and reading.mass < LEAST_MASS:
            return f"of its probability {reading.mass:.2f} is on the labels, and must be {LEAST_MASS} or more"
    return None
