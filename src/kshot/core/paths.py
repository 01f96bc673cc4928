"""Paths as people write them: `~` is the home folder wherever a path is given, and names are text."""

import os
from pathlib import Path

from kshot.core.errors import UserError


def at_home(given: str | os.PathLike[str]) -> str:
    """Return a path, or a name such as `gguf:~/FILE`, with the home folder in place of `~`.

    Variables such as `$HOME` stay as they are: a shell has put in their values, and elsewhere a name may have a dollar.

    Raises:
        UserError: It is no path, nobody knows the home folder, or the name is no text.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else given
    if not isinstance(text, str):
        raise UserError(
            f"A path or name must be a str or a Path; got {type(given).__name__}; give it as text, such as 'runs/trec'."
        )
    scheme, colon, rest = text.partition(":")
    before, path = (scheme + colon, rest) if rest.startswith("~") else ("", text)
    found = os.path.expanduser(path)
    if found.startswith("~") and not os.path.exists(found):
        raise UserError(f"'{text}' must begin with a home folder that is known here. Write the path in full.")
    return before + written(found)


def path_of(given: str | os.PathLike[str]) -> Path:
    """Return a path that was given; see `at_home`."""
    return Path(at_home(given))


def cache_folder() -> Path:
    """Return where is kept what can be made anew, such as converted models: `KSHOT_CACHE`, or `~/.cache/kshot`."""
    return path_of(os.environ.get("KSHOT_CACHE") or "~/.cache/kshot")


def written(path: str) -> str:
    """Return a path that can be written down, in a record or a page.

    Raises:
        UserError: It has bytes that are no UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise UserError(f"'{shown}' must be a name in UTF-8, to be written down. Rename the file or folder.") from None
    return path
