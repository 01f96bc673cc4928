"""How fast a server wants to be asked: what its headers say of limits holds for all requests to it."""

import asyncio
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S = 600.0  # that is waited because a header says so


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of "20", "1s", "6m0s", "120ms" or a date of HTTP; None of anything else."""
    if not text:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if pieces and "".join(map("".join, pieces)) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in pieces)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how long a server wants to be left alone, in seconds; None where it does not say."""
    own = seconds_of(headers.get("retry-after-ms"))
    found = own / 1000 if own is not None else seconds_of(headers.get("retry-after"))
    return None if found is None else min(found, LONGEST_S)


class Pace:
    """Lets requests wait until the server's limits, of which its answers' headers tell, are renewed."""

    def __init__(self):
        self._free_at = 0.0

    def hear(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of an answer."""
        waits = [retry_after(headers)] if status in (429, 503) else []
        for what in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{what}") == "0":
                waits.append(seconds_of(headers.get(f"x-ratelimit-reset-{what}")))
        for wait in waits:
            if wait is not None:
                self._free_at = max(self._free_at, time.monotonic() + min(wait, LONGEST_S))

    async def turn(self) -> None:
        """Return when a request may be sent."""
        while (wait := self._free_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
