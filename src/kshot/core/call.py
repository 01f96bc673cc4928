"""How a method with its settings is written: `name`, `name(k1=1.2)`, `name:k1=1.2,selector=bm25(b=0.5)`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kshot.core.errors import UserError

_KEY = re.compile(r"\s*[A-Za-z_][\w-]*\s*=")
_OPEN, _CLOSE = "([", ")]"
_DEEPEST = 16  # brackets in one another


@dataclass(frozen=True)
class Call:
    """A name with what is in its brackets, as text.

    Attributes:
        name: A name of a room's table, or a user's own "./file.py:Class".
        members: What stands there without a key: recipes, for methods that combine some.
        settings: Key to value.
    """

    name: str
    members: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return it as text that reads back as the same."""
        inside = ",".join((*self.members, *(f"{key}={value}" for key, value in self.settings.items())))
        return f"{self.name}({inside})" if inside else self.name


def split_outside(text: str, separator: str = ",") -> list[str]:
    """Split at a separator that stands in no bracket.

    Raises:
        UserError: Brackets that are not balanced.
    """
    pieces, start = [], 0
    for at, depth in _depths(text):
        if text[at] == separator and not depth:
            pieces.append(text[start:at])
            start = at + 1
    return [*pieces, text[start:]]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Yield each place with the number of brackets that are open there."""
    opened: list[int] = []
    for at, sign in enumerate(text):
        if sign in _OPEN:
            opened.append(at)
            if len(opened) > _DEEPEST:
                raise UserError(
                    f"'{_beginning(text)}' must have at most {_DEEPEST} brackets in one another; it has more. Name the "
                    "recipes inside one by one."
                )
        elif sign in _CLOSE:
            if not opened or _OPEN.index(text[opened[-1]]) != _CLOSE.index(sign):
                raise UserError(
                    f"'{_beginning(text)}' must have balanced brackets; the '{sign}' at character {at + 1} closes none."
                )
            opened.pop()
        yield at, len(opened)
    if opened:
        sign = text[opened[-1]]
        raise UserError(
            f"'{_beginning(text)}' must have balanced brackets; the '{sign}' at character {opened[-1] + 1} is never "
            "closed."
        )


def _beginning(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def is_setting(piece: str) -> bool:
    """Return whether a piece is a setting, key=value, and not a name with settings after a colon."""
    return bool(_KEY.match(piece))


def split_list(text: str) -> list[str]:
    """Split a list of recipes at its commas; a piece that is a setting belongs to the recipe before it."""
    names: list[str] = []
    for piece in split_outside(text):
        if is_setting(piece) and names:
            names[-1] += f",{piece.strip()}"
        else:
            names.append(piece.strip())
    return names


def parse_call(text: str) -> Call:
    """Read "name", "name(key=value)", "name:key=value", "./file.py:Class:key=value" and the same with brackets.

    Raises:
        UserError: Brackets that are not balanced, or something after them; a setting that comes twice.
    """
    text = text.strip()
    name, after = _head(text)
    at, pieces = name.find("("), []
    if at >= 0:
        if not name.endswith(")"):
            raise UserError(f"'{text}' must end with its brackets, or go on with a colon; got '{name}'.")
        name, pieces = name[:at], _joined(_pieces(name[at + 1 : -1]))
    pieces += _pieces(after)
    keyed = [piece.partition("=") for piece in pieces if is_setting(piece)]
    settings = {key.strip(): value.strip() for key, _, value in keyed}
    if len(settings) < len(keyed):
        raise UserError(f"{text}: each setting must be there once; got '{','.join(map(''.join, keyed))}'.")
    return Call(name.strip(), tuple(piece for piece in pieces if not is_setting(piece)), settings)


def _pieces(text: str) -> list[str]:
    return [piece.strip() for piece in split_outside(text) if piece.strip()]


def _joined(pieces: list[str]) -> list[str]:
    """Return pieces with the settings of a member, as in `mix(zero-shot, bm25:k=8,order=shuffled)`, joined to it."""
    found: list[str] = []
    for piece in pieces:
        if is_setting(piece) and found and not is_setting(found[-1]) and _head(found[-1])[1]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def _head(text: str) -> tuple[str, str]:
    """Split at the colon before settings; a user's own "./file.py:Class" keeps its own."""
    pieces = split_outside(text, ":")
    if len(pieces) > 1 and pieces[0].endswith(".py"):
        pieces[:2] = [f"{pieces[0]}:{pieces[1]}"]
    head, *rest = pieces
    return head, ":".join(rest)
