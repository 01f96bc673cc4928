"""How labels are written: what stands around them, which of them differ in nothing that counts, which are no labels."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kshot.core.types import Example
from kshot.tasks.missing import UNSEEN, trimmed

MAX_SHOWN = 4
MAX_CHARACTERS = 40
# As pandas and other programs write a cell that has no value
MISSING = ("nan", "NaN", "NAN", "None", "null", "NULL", "Null", "N/A", "n/a", "#N/A", "NA", "<NA>", "NaT", "nil")
ALIKE = str.maketrans(
    dict.fromkeys("‐‑‒–—―−﹘﹣－", "-")
    | dict.fromkeys("‘’‚‛′`´", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | dict.fromkeys(UNSEEN)
)
MARKS = " .,;:!?"


def trimmed_examples(
    splits: Sequence[tuple[Example, ...]],
) -> tuple[list[tuple[Example, ...]], tuple[str, ...]]:
    """Return examples without white space and invisible characters around outputs, references and choices.

    Only for tasks with labels or choices: there " negative" and "negative" are the same answer.

    Returns:
        The splits, and a note for each field that was changed.
    """
    changed: dict[str, list[str]] = {}

    def clean(text: str, field: str) -> str:
        if (bare := trimmed(text)) != text:
            changed.setdefault(field, []).append(text)
        return bare

    def cleaned(e: Example) -> Example:
        output = clean(e.output, "outputs")
        references = tuple(dict.fromkeys(clean(text, "references") for text in e.references))
        choices = tuple(clean(text, "choices") for text in e.choices)
        if (output, references, choices) == (e.output, e.references, e.choices):
            return e
        return replace(e, output=output, references=references, choices=choices)

    made = [tuple(map(cleaned, split)) for split in splits]
    return made, tuple(
        f"white space around {field} is left out, as in {shortened(texts[0])} ({len(texts)} in all)"
        for field, texts in changed.items()
    )


def variants(counts: Mapping[str, int]) -> list[str]:
    """Return a sentence on each group of labels that differ in nothing that counts.

    Args:
        counts: Label to the number of its rows.

    Example:
        >>> variants({"positive": 41, "Positive": 2, "negative": 40})
        ["2 labels differ only in case: 'positive' (41 rows), 'Positive' (2 rows); write them alike."]
    """
    groups: dict[str, list[str]] = {}
    for label in counts:
        groups.setdefault(_bare(label), []).append(label)
    said = []
    for labels in groups.values():
        if len(labels) < 2:
            continue
        labels.sort(key=lambda label: -counts[label])
        shown = ", ".join(f"{shortened(label)} ({_rows(counts[label])})" for label in labels[:MAX_SHOWN])
        more = ", …" if len(labels) > MAX_SHOWN else ""
        said.append(f"{len(labels)} labels differ only in {_difference(labels)}: {shown}{more}; write them alike.")
    return said


def missing(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return the texts that are likely no texts but missing values, with how often each is there."""
    return Counter(text for text in map(trimmed, texts) if text in MISSING).most_common()


def shortened(text: str) -> str:
    """Return a text in quotes for a message, without its end where it is long."""
    return repr(text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…")


def _difference(labels: Sequence[str]) -> str:
    steps = {
        "case": str.casefold,
        "white space": lambda label: " ".join(label.split()),
        "characters that look alike": lambda label: _alike(label),
        "case and characters that look alike": lambda label: _alike(label).casefold(),
    }
    return next((what for what, bare in steps.items() if len(set(map(bare, labels))) == 1), "case or punctuation")


def _alike(label: str) -> str:
    """Return the label with one character for all that look alike, by Unicode's NFKC; so for dashes, quotes, blanks."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).translate(ALIKE))
    return re.sub(r"\s+", " ", text)


def _bare(label: str) -> str:
    """Return what is left of a label without all that does not count; a label of marks alone stays as it is."""
    text = _alike(_alike(label).casefold())
    return text.strip(MARKS) or text


def _rows(n: int) -> str:
    return f"{n} row" if n == 1 else f"{n} rows"
