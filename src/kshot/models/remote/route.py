"""What a route is: one way to read the probabilities of a label set from a service, one file each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard

from kshot.core.types import FloatArray, ScoreRequest

ROUNDING = 1e-2  # nats above 0 that a log-probability in low precision may have
_LOWEST = -1e300  # JSON has integers that no float can be


@dataclass(frozen=True)
class Reading:
    """What a service says of one request.

    Attributes:
        log_probs: Log-probability in nats of each continuation, `[n_continuations]`.
        mass: The probability that the service gives to all continuations together, where the route normalises over
            them; None where it does not, or where it is not known.
        refused: Why the service does not answer, in its own words; None where it does.
    """

    log_probs: FloatArray
    mass: float | None = None
    refused: str | None = None


class Refusal(str):
    """Why a question whose answer is known tells nothing of a service: it refuses to answer that one."""


@dataclass(frozen=True)
class Takes:
    """What it takes to read a request.

    Attributes:
        calls: HTTP requests that are answered.
        prompts: How often the prompt is among what they send.
    """

    calls: int = 1
    prompts: int = 1


class Service(Protocol):
    """A server and the model that is asked there; what its answers take is counted by it."""

    @property
    def model(self) -> str:
        """The model's name, as the server knows it."""
        ...

    @property
    def memory(self) -> dict[str, Any]:
        """What was learnt of the server, for all who ask it, under the name of the file that keeps it there."""
        ...

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that the server answers to a POST of `body` at `path`, which begins after the base URL.

        A path "../tokenize" is beside the base URL: http://host/tokenize of http://host/v1. Retries, rate limits,
        timeouts and the model's name in the answer are kept here, and what the answer says of its use is added up.

        Raises:
            RefusedError: The server refuses the request (400, 404, 405, 422, 501, …), in its own words.
            NoAnswerError: It cannot be reached, or answers what is no JSON, after all retries.
        """
        ...

    async def get(self, path: str) -> Any:
        """Return the JSON at `path`; as `post`."""
        ...


class Route(Protocol):
    """One way to read a label set's probabilities."""

    @property
    def name(self) -> str:
        """As the record and docs/anywhere.md call it."""
        ...

    @property
    def trust(self) -> Literal["exact", "labels", "sampled"]:
        """What its numbers are.

        "exact" where log-probabilities are those of the texts themselves; "labels" where they are read for labels that
        stand for them, and normalised; "sampled" where answers are counted.
        """
        ...

    @property
    def in_messages(self) -> bool:
        """Whether it is asked by the messages of a chat (`Prompt.messages`), and not by a text."""
        ...

    @property
    def most(self) -> int | None:
        """How many continuations a request can have; None for any number."""
        ...

    async def probe(self, service: Service) -> str | None:
        """Ask what has a known answer; return why the route cannot be trusted here, or None if it can."""
        ...

    async def takes(self, service: Service, texts: Sequence[str]) -> Takes:
        """Return what it takes to read these continuations, as far as that is known before; nothing paid is asked."""
        ...

    async def read(self, service: Service, request: ScoreRequest) -> Reading:
        """Return what the service says of a request.

        Raises:
            ModelError: The service's answer is not what the route needs (no log-probabilities, truncated ones,
                another model's name); the message says what to do.
        """
        ...


def is_log_prob(value: Any) -> TypeGuard[float]:
    """Return whether a value of an answer can be a log-probability: a finite number, not above 0 but by rounding."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _LOWEST <= value <= ROUNDING
