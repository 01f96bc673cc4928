"""Texts that mean more to a model than they say, such as "<|im_end|>": where users write them they are spelled out.

A tokenizer finds its control tokens anywhere in a text, also in a user's: `<|im_end|>` in a row would end a turn. So
a mark is put behind the first character of each one that a user wrote. No token reaches over a mark, and it is no part
of the text: `<`, `|im_end|>` are then read as the letters that they are. Texts without control tokens stay as they are.
"""

import re
from functools import lru_cache

from kshot.core.errors import UserError

MARK = "\ufdd0"  # Unicode reserves it for programs: no text that is meant for others has it


def spelled_out(text: str, control_tokens: tuple[str, ...]) -> str:
    """Return a user's text with a mark in each of the control tokens that it spells; itself where there is none.

    Raises:
        UserError: It has the mark itself.

    Example:
        >>> spelled_out("a <s> b", ("<s>",)) == "a <" + MARK + "s> b"
        True
    """
    if MARK in text:
        at = text.index(MARK)
        raise UserError(
            "A text must not hold the character U+FDD0, which Unicode keeps for programs' own use; it stands after "
            f"{text[max(0, at - 20) : at]!r}. Remove the character."
        )
    if not any(first in text for first in _firsts(control_tokens)):
        return text
    found, n = _beginnings(control_tokens).subn(lambda first: first[0] + MARK, text)
    return found if n else text


def without_marks(text: str) -> str:
    """Return a text that was spelled out as its author wrote it."""
    return text.replace(MARK, "")


def held(text: str, control_tokens: tuple[str, ...]) -> list[str]:
    """Return the control tokens that a text spells, in their order."""
    return [token for token in control_tokens if token in text]


@lru_cache(maxsize=64)
def _firsts(control_tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({token[0] for token in control_tokens}))


@lru_cache(maxsize=64)
def _beginnings(control_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of the first characters of control tokens; of thousands only those that may begin are tried."""
    firsts = "".join(map(re.escape, _firsts(control_tokens)))
    return re.compile(f"(?=[{firsts}])(?={'|'.join(map(re.escape, control_tokens))}).", re.DOTALL)
