"""Where requests come in: the address, who may come, connections that end when nobody speaks, an orderly end."""

import asyncio
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Mapping

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from kshot.adapted.model import AdaptedModel
from kshot.core.errors import UserError, in_short
from kshot.serve.application import application
from kshot.serve.batching import MOST_WAITING, Batcher
from kshot.serve.bodies import MOST_BYTES, MOST_SECONDS
from kshot.serve.counts import Counts
from kshot.serve.served import Served
from kshot.serve.steady_memory import GivingBack

KEY = "KSHOT_SERVE_KEY"
LEAST_KEY = 16  # characters
SERVED_AT = " is served at "  # before the base URL of what `kshot serve` says first
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_IDLE_SECONDS, _ENDING_SECONDS, _MOST_CONNECTIONS = 60, 60, 1024


def key_of(host: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key that requests have to bring; None where the address is this machine's own and there is no key.

    Raises:
        UserError: The address is open to others and there is no key, or it is too short.
    """
    key = environment.get(KEY, "")
    if not key and not _is_local(host):
        raise UserError(
            f"--host {host} can be reached by others, so requests must bring a key; {KEY} is not set. Set it, or use "
            "--host 127.0.0.1."
        )
    if key and (len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key):
        raise UserError(
            f"{KEY} must have {LEAST_KEY} characters or more, ASCII without spaces; got {len(key)}. Take another."
        )
    return key or None


def hosts_of(address: str) -> tuple[str, ...]:
    """Return the names by which a server at an address may be called without a key: this machine's own."""
    return (*LOCAL_NAMES, address) if _is_local(address) else ("*",)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address, before anything slow is done; port 0 takes any that is free.

    Raises:
        UserError: It cannot be had.
    """
    try:
        (family, _, proto, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise UserError(
            f"--host must be an address of this machine; '{host}' is none: {in_short(error)}. Name another."
        ) from None
    found = socket.socket(family, socket.SOCK_STREAM, proto)  # asyncio sends small packets at once if it sees TCP
    if os.name != "nt":
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"--port must be free; something else listens at {host}:{port}. Give another --port, or 0 for any."
            ) from None
        raise UserError(
            f"--host and --port must be this machine's to give; {host}:{port}: {in_short(error)}. Give others."
        ) from None
    return found


class Connection(H11Protocol):
    """A connection that is closed where a request's head does not come in time, and answers who only listens on."""

    head_seconds = MOST_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _has_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, if there is no request yet."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Close where nothing more can come."""
        super().on_response_complete()
        if self._has_ended:
            self.transport.close()

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the way back open while a request is being answered."""
        self._has_ended = True
        return self._is_busy()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._forget()
        super().connection_lost(exc)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._is_busy():
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _forget(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None


def served(
    adapted: AdaptedModel,
    name: str,
    *,
    key: str | None = None,
    most_waiting: int = MOST_WAITING,
    most_bytes: int = MOST_BYTES,
) -> Served:
    """Return a model with its queue and its counters.

    Args:
        adapted: What answers.
        name: What requests call it.
        key: What requests have to bring.
        most_waiting: Inputs that may wait.
        most_bytes: Of a body.
    """
    counts: Counts
    memory = GivingBack()

    def told(n: int, seconds: float) -> None:
        counts.batch(n, seconds)
        memory.after(n)

    batcher = Batcher(adapted, most_waiting=most_waiting, told=told)
    counts = Counts(lambda: batcher.waiting)
    return Served(adapted, name, batcher, counts, key, most_bytes, since=int(time.time()))


def serve(
    served: Served,
    listening: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Answer until SIGTERM or Ctrl-C; then take nothing new, answer what has come, and return.

    A second Ctrl-C, or an answer that takes a minute, ends it at once: who still waits is told so (503).

    Args:
        served: The model.
        listening: Of `bound`.
        ready: Called when requests are answered.
        log: Is given a line for each request.
    """
    hosts = hosts_of(listening.getsockname()[0]) if served.key is None else None
    app = application(served, hosts=hosts, log=log)
    try:
        _Server(_config(app), ready).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn passes on what it was ended by, when all is done
        return


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_ENDING_SECONDS,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
