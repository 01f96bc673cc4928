"""What is taken of the examples that a generator has made, and why the others are not."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kshot.core.seeding import digest
from kshot.core.types import Example, Task, named_choice
from kshot.measures.text_metrics import n_common_subsequence
from kshot.methods.contracts import Made
from kshot.tasks.missing import trimmed
from kshot.tasks.rows import text_flaw
from kshot.tasks.validate import duplicate_key

EMPTY, NO_TEXT, LONG = "it is empty", "it is no text", "it is too long"
KNOWN, NEAR, TESTED = "it is not new", "it is too like a known one", "it asks what a row of test asks"
ODD_OUTPUT, NO_CHOICES = "its output is none of the task's", "its choices do not stand in its input"
LONGEST = 2  # times the longest known text, or so many characters:
SHORT = 200


class Intake:
    """Takes drafts of examples one by one, and keeps count of why others are not taken.

    A draft is rejected that is empty, no text that a file can hold, more than twice as long as the longest known one
    (200 characters always pass), not new, too like a known one, a question of the task's test rows, or whose output is
    none of the task's. The order is that of the reasons above, and a draft has one reason.

    Args:
        name: Of the generator.
        seeds: What is known.
        task: Its labels and choices are the outputs; its test rows must not be made.
        near: How like a known text a draft may be, as ROUGE-L between 0 and 1 (the F1 of the longest common subsequence
            of words, of input and context together, without choices that an input lists); 1 lets all pass that are new.
        repeats: Drafts may ask what a known example asks, but no two of them the same.
    """

    def __init__(self, name: str, seeds: Sequence[Example], task: Task, *, near: float = 1.0, repeats: bool = False):
        self._name, self._task, self._near = name, task, near
        self._seeds = tuple(seeds)
        self._known = set() if repeats else set(map(duplicate_key, seeds))
        self._tested = set(map(duplicate_key, task.test))
        self._words = [self._said(e) for e in seeds] if near < 1 else []
        self._longest = {what: _longest([getattr(e, what) or "" for e in seeds]) for what in ("text", "output")}
        self.taken: list[Example] = []
        self.rejected: list[tuple[str, str]] = []

    def fault(self, draft: Example) -> str | None:
        """Return why a draft is not taken; None where it can be."""
        texts = [draft.input, draft.output, *([] if draft.context is None else [draft.context])]
        if not all(map(trimmed, texts)):
            return EMPTY
        if any(map(text_flaw, texts)):
            return NO_TEXT
        if len(draft.text) > self._longest["text"]:
            return LONG
        if (key := duplicate_key(draft)) in self._known:
            return KNOWN
        if key in self._tested:
            return TESTED
        if self._near < 1 and self._is_near(draft):
            return NEAR
        if not self._task.is_open and draft.output not in self._task.candidates(draft):
            return ODD_OUTPUT
        return LONG if self._task.is_open and len(draft.output) > self._longest["output"] else None

    def take(self, draft: Example, sources: Sequence[Example], **about: Any) -> bool:
        """Take a draft, or reject it for its fault; return whether it was taken.

        Args:
            draft: With its output; it gets an id of its own, by what it says, and keeps its `meta` beside what is told.
            sources: The examples that it was made from.
            about: More to tell of how it was made, as JSON.
        """
        if fault := self.fault(draft):
            self.reject(draft.input, fault)
            return False
        meta = {**draft.meta, "made": self._name, "from": [e.id for e in sources], **about}
        name = f"{self._name}-{digest(duplicate_key(draft), draft.output)[:12]}"
        self.add(replace(draft, id=name, meta=meta))
        return True

    def add(self, example: Example) -> None:
        """Take an example as it is: with an id and a mark of its own."""
        self.taken.append(example)
        self._known.add(duplicate_key(example))
        if self._near < 1:
            self._words.append(self._said(example))

    def reject(self, text: str, reason: str) -> None:
        """Count a draft that is not taken for a reason of the generator's own."""
        self.rejected.append((text, reason))

    @property
    def made(self) -> Made:
        """All that came of it."""
        return Made(tuple(self.taken), tuple(self.rejected))

    def _said(self, example: Example) -> list[str]:
        """Return the words of an input and its context, without choices that it lists: they stay, whatever is asked."""
        stem, _ = parted(example, self._task) or (example.input, "")
        return _words(f"{stem} {example.context or ''}")

    def _is_near(self, draft: Example) -> bool:
        words = self._said(draft)
        return any(rouge(words, known) > self._near for known in self._words)


def likeness(a: str, b: str) -> float:
    """Return the ROUGE-L of two texts, 0 to 1; words are runs of letters and digits of any alphabet, in lower case.

    Source: Lin (2004), https://aclanthology.org/W04-1013/. Differs: words of any alphabet.
    """
    return rouge(_words(a), _words(b))


def rouge(a: Sequence[str], b: Sequence[str]) -> float:
    """Return 2 LCS / (words of both); 0 where there are none."""
    return 2 * n_common_subsequence(a, b) / (len(a) + len(b)) if a and b else 0.0


def parted(example: Example, task: Task) -> tuple[str, str] | None:
    """Return what an input asks, and the choices that it lists behind it; None where they do not stand in it."""
    if task.kind != "multiple_choice" or not task.choices_in_input:
        return example.input, ""
    mark = named_choice(task.letter_form, 0)
    found = re.search(rf"{re.escape(mark)}[\s.):\]]*{re.escape(example.choices[0])}", example.input)
    stem = example.input[: found.start()].rstrip() if found else ""
    return (stem, example.input[len(stem) :]) if stem else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _longest(texts: Sequence[str]) -> int:
    return max(SHORT, LONGEST * max(map(len, texts), default=0))
