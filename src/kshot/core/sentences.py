"""Where the sentences of a text stand."""

import re

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[”’」』）]*|\n")


def sentences_in(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end, in characters; a line's end is a sentence's.

    Example:
        >>> text = "It is 3.5 m. Or more?  Yes"
        >>> [text[a:b] for a, b in sentences_in(text)]
        ['It is 3.5 m.', 'Or more?', 'Yes']
    """
    found, at = list[tuple[int, int]](), 0
    for stop in (*(end.end() for end in _END.finditer(text)), len(text)):
        said = text[at:stop]
        if said.strip():
            start = at + len(said) - len(said.lstrip())
            found.append((start, start + len(said.strip())))
        at = stop
    return found
