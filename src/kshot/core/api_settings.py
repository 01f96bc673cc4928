"""What is said of a model behind an API: its address, and how it is asked."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from kshot.core.errors import UserError, did_you_mean

SCHEME = "openai:"
OPENAI_URL = "https://api.openai.com/v1"
FIRST_SAMPLES = 16


@dataclass(frozen=True)
class Address:
    """Where a model is asked.

    Attributes:
        url: What all paths begin after, without a slash at its end; None for OpenAI's own, or `OPENAI_BASE_URL`.
        model: Its name there.
    """

    url: str | None
    model: str

    @property
    def name(self) -> str:
        """As users write it."""
        return f"{SCHEME}{self.url}#{self.model}" if self.url else f"{SCHEME}{self.model}"

    @property
    def base_url(self) -> str:
        """Where requests go.

        Raises:
            UserError: `OPENAI_BASE_URL` is none, or holds a password or a key.
        """
        if self.url:
            return self.url
        url = (os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).strip().rstrip("/")
        _check_url(url, "The URL in OPENAI_BASE_URL")
        return url


def is_api(name: object) -> bool:
    """Return whether a model's name is an address."""
    return isinstance(name, str) and name.startswith(SCHEME)


def parse_address(name: str) -> Address:
    """Read `openai:NAME` or `openai:http://host/v1#NAME`.

    Raises:
        UserError: Something else, or a URL that holds a password or a key; the message does not repeat it.
    """
    rest = name.removeprefix(SCHEME).strip() if is_api(name) else ""
    if rest.rpartition("#")[2].startswith("sk-"):
        raise UserError(
            "A model behind an API must have a name that is no key, as it is written down; got one that begins with "
            "'sk-'. Name the model, and put the key into the environment as OPENAI_API_KEY or KSHOT_API_KEY."
        )
    if "://" not in rest:
        if not rest or rest.startswith(("http:", "https:")):
            raise UserError(
                f"A model behind an API must be openai:NAME or openai:http://host/v1#NAME; got '{name}'. Name the "
                "model."
            )
        if rest.startswith("#"):
            raise UserError(
                f"A model's URL must be http:// or https:// with a host; got none before '#' in '{name}'. Write "
                f"{SCHEME}http://host/v1{rest}, or {SCHEME}{rest.lstrip('#') or 'NAME'} for OpenAI's own."
            )
        return Address(None, rest)
    url, _, model = rest.partition("#")
    _check_url(url, "A model's URL")
    if not model:
        raise UserError(
            f"A model behind an API must be named after its URL, as {SCHEME}{url}#NAME; got no name. Add it."
        )
    return Address(url.rstrip("/"), model)


def _check_url(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        is_odd = parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 0) < 0
        holds_more = "@" in parts.netloc or bool(parts.query)
    except ValueError:
        is_odd, holds_more = True, "@" in url or "?" in url
    if holds_more:
        raise UserError(
            f"{what} must hold no password, key or query, as it is written down; got one with '@' or '?'. Leave "
            "it out, and put the key into the environment as KSHOT_API_KEY."
        )
    if is_odd:
        raise UserError(f"{what} must be http:// or https:// with a host; got '{url}'. Correct it.")


def check_model_name(name: str, value: Any) -> None:
    """Refuse an address that is none, as the check of a setting."""
    if is_api(value):
        parse_address(value)


@dataclass(frozen=True)
class ApiSettings:
    """How a model behind an API is asked.

    Attributes:
        route: The only route that is tried, or several, "letters+constrained"; by default all of them, best first.
        max_tokens: The longest prompt with its answer; by default what the server says.
        samples: Answers that are counted where nothing better is left.
        concurrency: The most requests at once.
        timeout: Seconds within which an answer has to be there, whole.
        retries: How often a request is sent again at most.
    """

    route: str | None = None
    max_tokens: int | None = None
    samples: int = FIRST_SAMPLES
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 8

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes that are named."""
        return tuple(self.route.split("+")) if self.route else ()

    @property
    def record(self) -> dict[str, Any]:
        """What differs from the defaults and can change an answer."""
        said = {"route": self.route, "max_tokens": self.max_tokens, "samples": self.samples}
        return {key: value for key, value in said.items() if value != getattr(ApiSettings, key)}

    @property
    def text(self) -> str:
        """`record` as users write it."""
        return ",".join(f"{key.replace('_', '-')}={value}" for key, value in self.record.items())


def parse_api(text: str | Mapping[str, Any] | None) -> ApiSettings:
    """Read "max-tokens=8192,concurrency=16"; None is the defaults.

    Raises:
        UserError: An unknown name, or a value that it cannot have.
    """
    if not text:
        return ApiSettings()
    pairs = text.items() if isinstance(text, Mapping) else [piece.partition("=")[::2] for piece in text.split(",")]
    known, read = {f.name for f in fields(ApiSettings)}, dict[str, Any]()
    for name, value in pairs:
        key, said = str(name).strip().replace("-", "_"), str(value).strip()
        if key not in known:
            shown = sorted(k.replace("_", "-") for k in known)
            raise UserError(
                f"--api must look like max-tokens=8192,concurrency=16; got '{name}'.{did_you_mean(str(name), shown)}"
            )
        if key == "route":
            read[key] = said or None
            continue
        number = float(said) if re.fullmatch(r"\d+(\.\d+)?", said) else -1.0
        least = 0 if key == "retries" else 1 if key != "timeout" else 0.001
        if number < least or (key != "timeout" and number != int(number)):
            what = "a number of seconds above 0" if key == "timeout" else f"a whole number, {least} or more"
            raise UserError(f"--api {str(name).strip()} must be {what}; got '{said}'. Correct it.")
        read[key] = number if key == "timeout" else int(number)
    return ApiSettings(**read)
