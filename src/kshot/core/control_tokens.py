"""Texts that mean more to a model than they say, such as "<|im_end|>": where users write them they are spelled out.

A tokenizer finds its control tokens anywhere in a text, also in a user's: `<|im_end|>` in a row would end a turn. So
a mark is put behind the first character of each one that a user wrote. No token reaches over a mark, and it is no part
of the text: `<`, `|im_end|>` are then read as the letters that they are. Texts without control tokens stay as they are.
"""

import re
from collections.abc import Iterable
from itertools import pairwise

from kshot.core.errors import UserError

MARK = "\ufdd0"  # Unicode reserves it for programs: no text that is meant for others has it


class Speller:
    """Spells out the control tokens in texts of users.

    Args:
        control_tokens: Those of a model; some have thousands.

    Example:
        >>> Speller(["<s>"])("a <s> b") == "a <" + MARK + "s> b"
        True
    """

    def __init__(self, control_tokens: Iterable[str] = ()):
        self._tokens = frozenset(control_tokens)
        self._lengths = sorted({len(token) for token in self._tokens})
        firsts = "".join(sorted({re.escape(token[0]) for token in self._tokens}))
        self._first = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def __call__(self, text: str) -> str:
        """Return a user's text with a mark in each of the control tokens that it spells; itself where there is none.

        Raises:
            UserError: It has the mark itself.
        """
        if MARK in text:
            at = text.index(MARK)
            raise UserError(
                "A text must not hold the character U+FDD0, which Unicode keeps for programs' own use; it stands after "
                f"{text[max(0, at - 20) : at]!r}. Remove the character."
            )
        places = [at + 1 for at in self.found(text)]
        return MARK.join(text[a:b] for a, b in pairwise([0, *places, len(text)])) if places else text

    def found(self, text: str) -> dict[int, str]:
        """Return where a text spells control tokens, and which."""
        begins = (first.start() for first in self._first.finditer(text))
        tried = ((at, text[at : at + n]) for at in begins for n in self._lengths)
        return {at: token for at, token in tried if token in self._tokens}


def without_marks(text: str) -> str:
    """Return a text that was spelled out as its author wrote it."""
    return text.replace(MARK, "")
