"""What the endpoints share: the model, its queue, its name; and how a request becomes an answer or an error."""

import asyncio
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import ModelError, RefusedError, TooLongError, UserError
from kshot.core.types import Prediction
from kshot.serve.batching import Batcher, BusyError, StoppingError
from kshot.serve.bodies import MOST_BYTES, MOST_SECONDS, RefusedRequestError, Shape, body_of, shaped
from kshot.serve.counts import Counts
from kshot.serve.plain_wire import Error, ErrorText
from kshot.tasks.inputs import input_of

S = TypeVar("S", bound=Shape)
OTHER = "other"  # as which all requests are counted that are for no endpoint
_ENDING = "The server is ending. Send it to another one."
_GONE = 499  # as nginx says it: nobody reads the answer
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
        adapted: What answers.
        name: What requests call it.
        batcher: Its queue.
        counts: What is counted.
        key: What requests have to bring; None lets all in.
        most_bytes: Of a body.
        most_seconds: For a body to come.
        since: When it was started, in seconds since 1970.
    """

    adapted: AdaptedModel
    name: str
    batcher: Batcher
    counts: Counts
    key: str | None = None
    most_bytes: int = MOST_BYTES
    most_seconds: float = MOST_SECONDS
    since: int = 0

    def check_key(self, request: Request) -> None:
        """Let a request in, or not.

        Raises:
            RefusedRequestError: It does not bring the key.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), (self.key or "").encode())
        if self.key is not None and not (is_right and scheme.lower() == "bearer"):
            raise RefusedRequestError(
                401,
                "A request must bring the server's key; this one does not. Send the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def check_name(self, name: str | None) -> None:
        """Check the model that a request names.

        Raises:
            RefusedRequestError: It is another one.
        """
        if name is not None and name != self.name:
            raise RefusedRequestError(
                404,
                f"The model here is '{self.name}'; the request names another one. Name this one.",
                param="model",
                code="model_not_found",
            )

    async def read(self, request: Request, shape: type[S]) -> S:
        """Return the body of a request as a shape; errors as `body_of` and `shaped`."""
        return shaped(await body_of(request, most=self.most_bytes, seconds=self.most_seconds), shape)

    async def ask(self, request: Request, rows: Sequence[str | Mapping[str, Any]]) -> list[Prediction]:
        """Return a prediction for each input.

        Raises:
            RefusedRequestError: An input cannot be used (400), the queue is full (429), a service behind the model
                refuses the input (400) or fails (502), the server is ending (503), or the sender has left.
        """
        try:
            examples = [input_of(row, self.adapted.task, i) for i, row in enumerate(rows, 1)]
            answers = self.batcher.submit(examples)
        except UserError as error:
            raise RefusedRequestError(400, str(error)) from None
        except BusyError as error:
            raise RefusedRequestError(
                429,
                f"There must be room in the queue; {self.batcher.waiting} inputs wait already. Send it again in "
                f"{error.retry_after} s.",
                headers={"retry-after": str(error.retry_after)},
            ) from None
        except StoppingError:
            raise RefusedRequestError(503, _ENDING) from None
        found = asyncio.wrap_future(answers)
        gone = asyncio.ensure_future(request.receive())  # after the body comes nothing but the end of the connection
        try:
            await asyncio.wait((found, gone), return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise RefusedRequestError(_GONE, "The sender has left.")
            return found.result()
        except TooLongError as error:
            place = next((i for i, e in enumerate(examples, 1) if e.id == error.asked), 1)
            raise RefusedRequestError(
                400,
                f"An input must fit the model's context of {error.most} tokens; input {place} of the request needs "
                f"{error.n} with the instruction. Shorten it.",
            ) from None
        except UserError as error:
            raise RefusedRequestError(400, str(error)) from None
        except RefusedError as error:
            told = f"The service behind the model must take the input; it refuses ({error.status}): {error.words}."
            raise RefusedRequestError(400 if error.status < 500 else 502, f"{told} Send another input.") from None
        except ModelError as error:
            if self.adapted.model is None or not self.adapted.model.is_remote:
                raise
            raise RefusedRequestError(502, str(error)) from None
        finally:
            found.cancel()
            gone.cancel()


Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(
    name: str, served: Served, answer: Callable[[Request, Served], Awaitable[Response]], *, is_open: bool = False
) -> Endpoint:
    """Return an endpoint that counts, and answers errors as OpenAI's API does; no text of a request is logged.

    Args:
        name: As it is counted.
        served: The model.
        answer: Answers a request.
        is_open: Whether it needs no key.
    """

    async def run(request: Request) -> Response:
        began = time.monotonic()
        try:
            if not is_open:
                served.check_key(request)
            response = await answer(request, served)
        except RefusedRequestError as error:
            response = refused(error)
        except asyncio.CancelledError:  # a second Ctrl-C, or it has waited long enough for the answer
            served.counts.cut_short += 1
            response = refused(RefusedRequestError(503, _ENDING))
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            print(f"{name}: {type(error).__name__}\n{where}", file=sys.stderr, flush=True)  # not what it says
            told = f"The server failed with {type(error).__name__}; its log says where. Report it."
            response = refused(RefusedRequestError(500, told))
        served.counts.request(name, response.status_code, time.monotonic() - began)
        return response

    return run


def as_json(shape: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a shape as an answer."""
    return Response(shape.model_dump_json(), status, dict(headers or {}), "application/json")


def refused(error: RefusedRequestError) -> Response:
    """Return why a request was not answered."""
    kind = _KINDS.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    text = ErrorText(message=error.message, type=kind, param=error.param, code=error.code)
    return as_json(Error(error=text), error.status, error.headers)


def tokens_run(predictions: Sequence[Prediction]) -> tuple[int, int]:
    """Return the tokens of all prompts, and how many of them were not run, as they were remembered."""
    n = sum(p.prompt_tokens for p in predictions)
    return n, max(0, n - round(sum(p.tokens for p in predictions)))
