"""Where an answer came from: from the passage of its row, or from memory."""

from kshot.core.intents import memory_answer
from kshot.core.types import Example
from kshot.measures.text_metrics import squad_exact_match

PASSAGE, MEMORY, NEITHER = SOURCES = ("passage", "memory", "neither")


def tells_apart(example: Example) -> bool:
    """Return whether an example has an answer from memory (`meta.memory_answer`) that is another than its output."""
    memory = memory_answer(example)
    return memory is not None and not squad_exact_match(example.accepted, memory)


def came_from(answer: str | None, example: Example) -> str | None:
    """Return whether an answer is the "passage"'s, that from "memory" or "neither"; None where it cannot be told.

    Answers are compared but for case, punctuation and articles.
    """
    if answer is None or not tells_apart(example):
        return None
    if squad_exact_match(example.accepted, answer):
        return PASSAGE
    return MEMORY if squad_exact_match((memory_answer(example) or "",), answer) else NEITHER
