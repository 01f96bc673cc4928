"""Where the sentences of a text stand."""

import re

_SENTENCE = re.compile(
    r"\S(?:[^.!?…。！？\n]|[.!?…](?=\S))*(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[”’」』）]*|(?=\n|$))"
)


def sentences_in(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end, in characters; a line's end is a sentence's.

    Example:
        >>> text = "It is 3.5 m. Or more?  Yes"
        >>> [text[a:b] for a, b in sentences_in(text)]
        ['It is 3.5 m.', 'Or more?', 'Yes']
    """
    return [found.span() for found in _SENTENCE.finditer(text)]
