"""How an answer says how sure it is: "blue (confidence 0.75)"."""

import re

_STATED = re.compile(r"\s*\(confidence (0(?:\.\d+)?|1(?:\.0+)?)\)\s*$")


def stating(answer: str, confidence: float) -> str:
    """Return an answer that says how sure it is, with two decimals."""
    return f"{answer} (confidence {confidence:.2f})"


def apart(text: str) -> tuple[str, float | None]:
    """Return an answer without what it states, and that as a number; None where it states nothing.

    Example:
        >>> apart("blue (confidence 0.75)"), apart("blue")
        (('blue', 0.75), ('blue', None))
    """
    found = _STATED.search(text)
    return (text[: found.start()].strip(), float(found[1])) if found else (text, None)
