"""The servers that this user has named: a model that somebody gives him is asked nowhere else without his word."""

from pathlib import Path

from kshot.core.api_settings import Address
from kshot.core.errors import UserError
from kshot.models.remote.server_cache import ServerCache

_NAMED = "named"
_here = set[str]()  # by this process, also where the cache folder cannot be written


def remember(address: Address) -> None:
    """Keep that the user has named a server, in the cache folder."""
    if not _is_named(address.base_url):
        _here.add(address.base_url)
        ServerCache(address.base_url, "").put_record(_NAMED, {"url": address.base_url})


def check_named(address: Address, folder: Path, remedy: str) -> None:
    """Refuse a server that a saved model brings and that the user has never named.

    Args:
        address: What the saved model asks.
        folder: Where it is.
        remedy: How the server is allowed.

    Raises:
        UserError: It was never named.
    """
    if not _is_named(address.base_url):
        raise UserError(
            f"A saved model's server must be one that you have named yourself on this machine; {folder} asks "
            f"{address.base_url}, and all inputs, and the key for it in your environment, would be sent there. {remedy}"
        )


def _is_named(url: str) -> bool:
    return url in _here or bool(ServerCache(url, "").record(_NAMED))
