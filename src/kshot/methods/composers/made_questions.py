"""Questions that are made from a paragraph, each with an answer that stands in it."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from kshot.methods.composers.passages import found_in, sentences

BLANK, STOP = "____", "\nPassage:"
_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,:]\d+)*(?![\w])")
_NAME = re.compile(r"(?<![\w'’.])[A-Z][\w-]{2,}(?: (?:(?:of|the|de|van|von) )*[A-Z][\w-]+)*")
_WORD = re.compile(r"[^\W\d_]{4,}")
# Words that are no answers, wherever they stand
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """about after again also although among and another are because been before being between both but could does
        during each even every for from had has have having her his how however into its itself many more most much
        never not often one only other our over same several she should since some such than that the their them then
        there these they this those through two under until upon very was were what when where which while who whose why
        will with within without would you your""",
    )
)
# A base model goes on as the example does, and a chat model writes what it is shown
ASKED = """Write a question that the passage answers, and its short answer, word for word from the passage.

Passage: The old mill by the river was bought in 1932 by Anna Berg, who turned it into a school.
Question: Who turned the mill into a school?
Answer: Anna Berg

Passage: {paragraph}
Question:"""
_WRITTEN = re.compile(
    r"\s*(?:question\s*:)?\s*(?P<asked>[^\n]+?)\s*\n+\s*answer\s*:\s*(?P<answer>[^\n]+)", re.IGNORECASE
)

_KINDS = {  # what a question begins with -> what its answer must have
    r"(?:in |by |to |with |for )?who(?:m|se)?\b": r"[A-Z]",
    r"when\b|(?:in )?(?:which|what) year\b": r"\d|day|week|month|year|century|spring|summer|autumn|winter",
    r"how (?:many|much|old|far|long)\b": r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|"
    r"thousand|million|billion|half|all|none|few|many|several)\b",
}


class Made(NamedTuple):
    """A question with an answer that stands in its paragraph."""

    question: str
    answer: str


def read(text: str, paragraph: str, asked: str) -> Made | None:
    """Return the question and the answer that a model has written; None where they cannot be used.

    The answer must stand in the paragraph, be half of it at most, and be what the question's word asks for: a name
    after "who", a number after "when" and "how many". The question must end with its mark, must not tell the answer,
    and must be another one than `asked`.
    """
    written = _WRITTEN.match(text)
    if not written:
        return None
    question, answer = written["asked"], found_in(paragraph, written["answer"])
    if not answer or len(answer) > len(paragraph) / 2 or not question.endswith(("?", "？")):
        return None
    is_sense = all(re.search(wants, answer) for asks, wants in _KINDS.items() if re.match(asks, question, re.I))
    return (
        Made(question, answer) if is_sense and not found_in(question, answer) and not _same(question, asked) else None
    )


def cloze(paragraph: str, asked: str, rng: np.random.Generator) -> Made | None:
    """Return a sentence of a paragraph with a blank for a number or a name, else for its longest word."""
    return _of_span(paragraph, asked, rng, lambda before, after, _: f"Fill in the blank: {before}{BLANK}{after}")


def template(paragraph: str, asked: str, rng: np.random.Generator) -> Made | None:
    """Return a question for the number, the name or the word that stands next to some words of a paragraph."""
    return _of_span(paragraph, asked, rng, _what_stands)


def _what_stands(before: str, after: str, kind: str) -> str:
    if words := before.split()[-6:]:
        return f"Which {kind} comes after “{' '.join(words)}” in the text?"
    return f"Which {kind} comes before “{' '.join(after.split()[:6])}” in the text?"


def _of_span(paragraph: str, asked: str, rng: np.random.Generator, say: Callable[[str, str, str], str]) -> Made | None:
    """Return a question about one of the spans of a paragraph that a question can be asked about."""
    spans = [(sentence, *span) for sentence in sentences(paragraph) for span in _spans(sentence)]
    best = [span for span in spans if span[-1] != "word"] or spans
    for i in rng.permutation(len(best)):
        sentence, start, end, kind = best[i]
        made = Made(say(sentence[:start], sentence[end:], kind), sentence[start:end])
        if not _same(made.question, asked) and not found_in(made.question, made.answer):
            return made
    return None


def _spans(sentence: str) -> list[tuple[int, int, str]]:
    """Return (start, end, kind) of the numbers, the names after the first word, and the longest other word."""
    found = [(*m.span(), "number") for m in _NUMBER.finditer(sentence)]
    first = len(sentence) - len(sentence.lstrip(" \"'“‘(["))
    names = [(*m.span(), "name") for m in _NAME.finditer(sentence) if m.start() > first]
    found += [span for span in names if sentence[span[0] : span[1]].lower() not in _EMPTY]
    words = [m for m in _WORD.finditer(sentence) if m[0].lower() not in _EMPTY and m.start() > first]
    longest: Sequence[re.Match[str]] = sorted(words, key=lambda m: -len(m[0]))[:1]
    return [span for span in found if span[1] - span[0] < len(sentence) / 2] + [(*m.span(), "word") for m in longest]


def _same(a: str, b: str) -> bool:
    return re.findall(r"\w+", a.lower()) == re.findall(r"\w+", b.lower())
