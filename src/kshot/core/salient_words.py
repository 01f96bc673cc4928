"""What an answer rests on: the words of a question, each with how strongly the answer's probability follows it."""

import re
from dataclasses import dataclass

from kshot.core.types import Example

INPUT, CONTEXT = "input", "context"
# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana and Chinese; each character is a word
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SIGNS = r"!-/:-@\[-`{-~\u2010-\u2027\u2030-\u205e\u3001-\u303f\uff01-\uff0f\uff1a-\uff20"
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}{_SIGNS}]+(?:['’-][^\s{_ALONE}{_SIGNS}]+)*|[{_SIGNS}]+")


@dataclass(frozen=True)
class Word:
    """A word of a question, and what the answer makes of it.

    Attributes:
        field: "input" or "context".
        start: Where it begins in that text, in characters.
        stop: Where it ends.
        value: The largest norm of the gradient with respect to the vectors of its tokens, 0 or more.
    """

    field: str
    start: int
    stop: int
    value: float

    def text_in(self, example: Example) -> str:
        """Return the word as it is written."""
        return (example.input if self.field == INPUT else example.context or "")[self.start : self.stop]


def words_in(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end, in characters; runs of signs are words too, white space is none.

    Example:
        >>> [text[a:b] for text in ["It's late, 好了"] for a, b in words_in(text)]
        ["It's", 'late', ',', '好', '了']
    """
    return [found.span() for found in _WORD.finditer(text)]
