"""Lists that are written in a text, as JSON or as Python writes lists of texts."""

import ast
import json
import re
from typing import Any

# Of texts or numbers; what else stands in brackets, such as [citation needed], is a text.
WRITTEN_LIST = re.compile(r"""\[(?:['"].*|[0-9 ,.-]*)\]""", re.DOTALL)
ESCAPE = r"\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})"
STRING = rf"""(?:'(?:[^'\\\n\r\0]|{ESCAPE})*'|"(?:[^"\\\n\r\0]|{ESCAPE})*")"""
PYTHON_LIST = re.compile(rf"\[{STRING}(?:, {STRING})*\]")


def is_written_list(value: object) -> bool:
    """Return whether a value is a text that looks like a list of texts or numbers."""
    return isinstance(value, str) and WRITTEN_LIST.fullmatch(value.strip()) is not None


def read_list(text: str) -> list[Any] | None:
    """Return the list that a text writes; None where it cannot be read as one."""
    text = text.strip()
    if PYTHON_LIST.fullmatch(text):
        return ast.literal_eval(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None
