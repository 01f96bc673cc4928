"""What every request passes first: the log, and who may be called by which name."""

import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kshot.serve.bodies import RefusedRequestError
from kshot.serve.served import OTHER, Served, refused

_LONGEST_PATH = 200


class Logged:
    """Writes a line for each request: method, path, status, milliseconds; nothing of what was sent or answered.

    Args:
        app: What answers.
        log: Is given the line.
    """

    def __init__(self, app: ASGIApp, log: Callable[[str], None]):
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # as nginx says it: nobody was answered

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            milliseconds = 1000 * (time.monotonic() - began)
            self._log(f"{scope['method'][:20]} {_path(scope)} {status} {milliseconds:.0f} ms")


def _path(scope: Scope) -> str:
    """Return a path without its query, as one line of ASCII."""
    return "".join(c if " " < c <= "~" else "?" for c in scope["path"][:_LONGEST_PATH])


class KnownHosts:
    """Lets requests pass that call the server by one of its names.

    Args:
        app: What answers.
        served: Where the others are counted.
        hosts: The names, in lower case.
    """

    def __init__(self, app: ASGIApp, served: Served, hosts: tuple[str, ...]):
        self._app, self._served, self._hosts = app, served, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else self._hosts[0]
        name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
        if name.lower() in self._hosts and (port.isdecimal() or not port):
            await self._app(scope, receive, send)
            return
        self._served.counts.request(OTHER, 400, 0.0)
        error = RefusedRequestError(
            400,
            f"Without a key the server must be called by a name of this machine; got '{host[:60]}'. Use localhost or "
            "127.0.0.1, or set KSHOT_SERVE_KEY.",
        )
        await refused(error)(scope, receive, send)
