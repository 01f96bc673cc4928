"""Notes in the order in which they came, looked up by what they say; which of them say otherwise than later ones."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kshot.core.control_tokens import MARK
from kshot.core.errors import InvalidInputError
from kshot.core.types import FloatArray
from kshot.retrieval.lexical import LexicalIndex, words

MOST_CHARACTERS = 4000  # of a note
MOST_OTHER_WORDS = 4  # in which two notes differ that say otherwise
LEAST_SAME_WORDS = 3  # with which both begin
_NEGATIONS = frozenset({"not", "never", "no", "cannot"})
# Words that join: what has one of its own says another thing of the same, as "open on Saturday" and "led by Ann" do
_JOINING = frozenset({"about", "and", "as", "at", "by", "for", "from", "in", "of", "on", "or", "than", "to", "with"})


class Embeds(Protocol):
    """Turns texts into vectors of length 1."""

    def embed(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Return a vector for each text, `[n_texts, dim]`."""
        ...


@dataclass(frozen=True)
class NoteMemory:
    """Notes with their vectors; `add` returns a larger memory, so that one and the same can be read meanwhile.

    Attributes:
        notes: In the order in which they were added, each once.
        encoder: What they are compared by; None: by the words that they share.
        vectors: A row for each note, `[n_notes, dim]`; None without notes or encoder.
        overruled: The numbers of notes that say otherwise than a later one, which counts instead: note -> later note.
    """

    notes: tuple[str, ...] = ()
    encoder: Embeds | None = field(default=None, compare=False, repr=False)
    vectors: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    overruled: tuple[tuple[int, int], ...] = ()

    def add(self, notes: Iterable[str]) -> "NoteMemory":
        """Return the memory with more notes at its end; one that it has, and that counts, is left out."""
        every, overruled = list(self.notes), dict(self.overruled)
        counts = {note for i, note in enumerate(every) if i not in overruled}
        alike = {key: list(places) for key, places in self._alike.items()}
        for note in notes:
            if note in counts:
                continue
            keys = _keys(note)
            for i in sorted({i for key in keys for i in alike.get(key, ())}):
                if i not in overruled and say_otherwise(every[i], note):
                    overruled[i] = len(every)
                    counts.discard(every[i])
            for key in keys:
                alike[key] = [*(i for i in alike.get(key, ()) if i not in overruled), len(every)]
            counts.add(note)
            every.append(note)
        return self._grown(tuple(every), tuple(overruled.items()))

    def _grown(self, notes: tuple[str, ...], overruled: tuple[tuple[int, int], ...]) -> "NoteMemory":
        """Return the memory of these notes, which begin with its own; new rows of vectors go below the others."""
        new, vectors = notes[len(self.notes) :], self.vectors
        if new and self.encoder is not None:
            rows = self.encoder.embed(new)
            vectors = rows if vectors is None else np.concatenate((vectors, rows), axis=0)
        return NoteMemory(notes, self.encoder, vectors, overruled) if new else self

    @cached_property
    def _alike(self) -> dict[tuple[Any, ...], list[int]]:
        """The places of the notes that count by what those that say otherwise have in common."""
        found, gone = dict[tuple[Any, ...], list[int]](), dict(self.overruled)
        for i, note in enumerate(self.notes):
            for key in _keys(note) if i not in gone else ():
                found.setdefault(key, []).append(i)
        return found

    def likeness(self, text: str) -> FloatArray:
        """Return how much each note is about a text, 1 at most: the inner product, or the share of words by weight."""
        if not self.notes:
            return np.zeros(0)
        if self.encoder is None:
            most = self._index.own_scores
            return np.divide(self._index.scores(text), most, out=np.zeros(len(most)), where=most > 0)
        assert self.vectors is not None
        # Equal notes must tie, whose products differ by rounding
        return np.round(self.vectors.astype(np.float64) @ self.encoder.embed([text])[0], 9)

    @cached_property
    def _index(self) -> LexicalIndex:
        return LexicalIndex(self.notes)

    def lookup(self, text: str, k: int) -> list[tuple[str, float]]:
        """Return the `k` notes that are most about a text with their likeness, the best first.

        One that says otherwise than a later note is not among them; of equals the later one comes first.
        """
        likeness, gone = self.likeness(text), {i for i, _ in self.overruled}
        order = sorted(range(len(self.notes)), key=lambda i: (-likeness[i], -i))
        return [(self.notes[i], float(likeness[i])) for i in order if i not in gone][:k]


def say_otherwise(first: str, second: str) -> bool:
    """Return whether two notes differ in how they end alone, or in a "not": a guess by their words.

    They begin with the same words, more than half of each and at least three, and end with one to four others, none of
    them in both and none that joins, such as "of"; what follows numbers, such as "dollars a month", may be the same.
    Or they are the same but for negations.
    """
    (a, a_denies), (b, b_denies) = _parted(first), _parted(second)
    if a == b:
        return a_denies != b_denies
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = [*zip(reversed(a[n:]), reversed(b[n:]), strict=False)]
    m = next((i for i, (x, y) in enumerate(rest) if x != y), len(rest))
    parts = [some[n : len(some) - m] for some in (a, b)]
    if not all(any(word[0].isdigit() for word in part) for part in parts):
        parts = [some[n:] for some in (a, b)]
    is_short = all(1 <= len(part) <= MOST_OTHER_WORDS for part in parts)
    is_same_before = n >= LEAST_SAME_WORDS and n > max(map(len, parts))
    first_words, second_words = map(set, parts)
    return is_short and is_same_before and not (first_words & second_words or (first_words | second_words) & _JOINING)


@lru_cache(maxsize=100_000)
def _parted(note: str) -> tuple[tuple[str, ...], bool]:
    """Return the words of a note without its negations, and whether it denies something."""
    found = words(re.sub(r"n['\u2019]t\b", " not", note))
    return tuple(w for w in found if w not in _NEGATIONS), sum(w in _NEGATIONS for w in found) % 2 == 1


def _keys(note: str) -> list[tuple[Any, ...]]:
    """Return what a note has in common with each that says otherwise, at least one of these, and with few others.

    All of it; what stands before the words in which both may end; or, where these hold a number, before and after them.
    """
    found, _ = _parted(note)
    size, keys = len(found), list[tuple[Any, ...]]([(*found, "")])
    for n in range(max(LEAST_SAME_WORDS, size - MOST_OTHER_WORDS), size):
        if n > size - n:
            keys.append(found[:n])
    for n in range(LEAST_SAME_WORDS, size):
        for end in range(n + 1, min(n + MOST_OTHER_WORDS, 2 * n - 1, size - 1) + 1):
            if any(word[0].isdigit() for word in found[n:end]):
                keys.append((found[:n], found[end:]))
    return keys


def clean_note(note: Any, where: str = "A note") -> str:
    """Return a note with single spaces.

    Args:
        note: As it was given.
        where: What messages call it.

    Raises:
        InvalidInputError: It is no text, empty, or longer than a note can be.
    """
    if not isinstance(note, str):
        raise InvalidInputError(f"{where} must be a text; got {type(note).__name__}. Give it as one sentence.")
    text = " ".join(note.split())
    if not any(map(str.isprintable, text)):
        raise InvalidInputError(f"{where} must say something; it is empty. Give a sentence, or leave it out.")
    if len(text) > MOST_CHARACTERS:
        raise InvalidInputError(
            f"{where} must have {MOST_CHARACTERS} characters at most, as notes are said beside each question that they "
            f"are about; it has {len(text)}. Give several short ones."
        )
    if "\0" in text:
        raise InvalidInputError(f"{where} must not hold a NUL character. Remove it.")
    if MARK in text:
        raise InvalidInputError(
            f"{where} must not hold the character U+FDD0, which Unicode keeps for programs' own use. Remove it."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{where} must be Unicode text; it has half a surrogate pair. Correct it.") from None
    return text
