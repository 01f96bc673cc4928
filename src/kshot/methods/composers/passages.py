"""A question's passage, cut into numbered paragraphs, and which of them hold an answer."""

import re
from collections.abc import Sequence

from kshot.core.types import Example, Question

CUTS = ("auto", "blank lines", "lines", "sentences")
_IN_INPUT = re.compile(
    r"\s*(?:passage|context|paragraph|article|text)\s*:(?P<passage>.+)\bquestion\s*:(?P<asked>.*\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?:[\"'”’)\]]*)\s+(?=[\"'“‘(\[]*[^\W_a-z])|(?<=[。！？])\s*(?=\S)")
# What ends with a period and no sentence: initials, titles and the like
_ABBREVIATED = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx|Inc|Co))\.$")


def passage_of(question: Question | Example) -> tuple[str, str] | None:
    """Return a question's passage and what is asked of it; None where it has no passage.

    The passage is its context, or stands in its input as "Passage: … Question: …".
    """
    if question.context and question.context.strip():
        return question.context, question.input
    found = _IN_INPUT.fullmatch(question.input)
    return (found["passage"].strip(), found["asked"].strip()) if found and found["passage"].strip() else None


def paragraphs(passage: str, cut: str) -> tuple[str, ...]:
    """Return the parts of a passage, none of them empty; together they are all of it but for white space.

    Args:
        passage: A text.
        cut: One of `CUTS`; "auto" is the coarsest that gives two parts or more.
    """
    ways = CUTS[1:] if cut == "auto" else (cut,)
    found = [tuple(" ".join(part.split()) for part in _cut(passage, how) if part.strip()) for how in ways]
    return next((parts for parts in found if len(parts) > 1), found[-1])


def _cut(passage: str, how: str) -> Sequence[str]:
    if how == "blank lines":
        return re.split(r"\n\s*\n", passage)
    return passage.splitlines() if how == "lines" else sentences(passage)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; a period after an initial or a title ends none."""
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        closed = text[start : end.end()].strip()
        if _ABBREVIATED.search(closed):
            continue
        found.append(closed)
        start = end.end()
    return [*found, rest] if (rest := text[start:].strip()) else found


def numbered(parts: Sequence[str]) -> str:
    """Return paragraphs with their numbers, a line each."""
    return "\n".join(f"[{i}] {part}" for i, part in enumerate(parts, 1))


def found_in(text: str, answer: str) -> str | None:
    """Return an answer as a text writes it, whole words in any case; None where it is not in it."""
    bare = " ".join(answer.split()).strip(" .\"'“”‘’")
    if not bare:
        return None
    edges = (r"(?<!\w)" if bare[0].isalnum() else "", r"(?!\w)" if bare[-1].isalnum() else "")
    found = re.search(f"{edges[0]}{re.escape(bare)}{edges[1]}", text, re.IGNORECASE)
    return found[0] if found else None


def holding(parts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Return the numbers, from 1, of the paragraphs in which one of some answers stands."""
    return [i for i, part in enumerate(parts, 1) if any(found_in(part, answer) for answer in answers)]
