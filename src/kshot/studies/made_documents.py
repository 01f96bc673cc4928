"""Made-up documents: texts and lists of a domain's words, whose structure, word frequencies and reach are set apart.

A word belongs to a domain and has a usual label. A document is about some words of one domain: with `recency` one of
the last few comes again, else one that has not come for a while, the r-th in proportion to r^-steepness. So long
context can help much or little in documents of each kind:

- text: words; after half of them their usual label.
- lists: after each word a label, by a mapping of the document's own, which keeps the usual one for some of the words.
- hollow: the same, but each label is drawn for itself, so that there is nothing to be learnt from context.
- mixed: a text that turns into a list of the same words.

Of several documents that were drawn with other steepness, the one is taken whose Zipf coefficient is nearest to one
that was drawn before: so coefficients are spread nearly alike in all kinds.

A task has a mapping of its own too. Who knows all this, and not the mapping, says of a word the label that was shown
for it, and its usual one where none was.

Source: our own, for Han et al. (2023), https://arxiv.org/abs/2306.15091.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kshot.core.types import FloatArray
from kshot.studies.document_statistics import zipf

Ints = NDArray[np.int64]

DOMAINS, WORDS, LABELS = 4, 16, 8  # words in a domain
ABOUT, LISTED = 8, 4  # words of a document, of a task
KEPT = 0.3  # the share of words to which a mapping gives the usual label
TEXT, LISTS, HOLLOW, MIXED = "text", "lists", "hollow", "mixed"
SHARES = {TEXT: 0.6, HOLLOW: 0.15, MIXED: 0.1, LISTS: 0.15}
N_WORDS = DOMAINS * WORDS
N_TOKENS = N_WORDS + LABELS + 1
START = N_TOKENS - 1  # stands before every document and prompt
NEAR = 3  # so many words that came last are near
COEFFICIENTS = (0.65, 0.9)  # Zipf coefficients that are asked for
RECENCY = (0.0, 0.75)  # shares that are drawn
TRIED = 12  # documents, of which the one with the nearest coefficient is taken


@dataclass(frozen=True)
class Documents:
    """Documents, and what they were made with.

    Attributes:
        tokens: `[n, length]`, words first, then labels; START at the first place.
        kinds: `[n]`.
        structure: The share of labels that come from a mapping of the document's own, `[n]`.
        domains: `[n]`.
        recency: How often one of the last words comes again, `[n]`.
        zipf: The Zipf coefficient, `[n]`.
    """

    tokens: Ints
    kinds: NDArray[np.str_]
    structure: FloatArray
    domains: Ints
    recency: FloatArray
    zipf: FloatArray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Prompts:
    """Demonstrations and a query, whose label is asked for.

    Attributes:
        tokens: `[n, 2 k + 2]`, a word and its label by turns, the query's word last; START at the first place.
        answers: Labels, 0 … LABELS - 1, `[n]`.
        best: Whether the best answer is right, `[n]`: the label that was shown for the word, else its usual one.
        unusual: Whether the label is not the word's usual one, `[n]`.
    """

    tokens: Ints
    answers: Ints
    best: NDArray[np.bool_]
    unusual: NDArray[np.bool_]


def usual(words: Ints) -> Ints:
    """Return the usual labels of words, 0 … LABELS - 1."""
    return (words + words // WORDS) % LABELS


def _mapped(words: Ints, rng: np.random.Generator) -> Ints:
    """Return labels of words `[n, m]` by mappings of their own, `[n, m]`."""
    other = (usual(words) + rng.integers(1, LABELS, size=words.shape)) % LABELS
    return np.where(rng.random(words.shape) < KEPT, usual(words), other)


def _words(domains: Ints | int, n: int, m: int, rng: np.random.Generator) -> Ints:
    """Return `m` different words of a domain for each of `n`, `[n, m]`."""
    found = rng.permuted(np.tile(np.arange(WORDS), (n, 1)), axis=1)[:, :m]
    return found + WORDS * np.broadcast_to(domains, n)[:, None]


def documents(n: int, length: int, *, rng: np.random.Generator) -> Documents:
    """Draw documents.

    Args:
        n: How many.
        length: Tokens of each.
        rng: For every choice.
    """
    kinds = rng.choice(list(SHARES), size=n, p=list(SHARES.values()))
    recency = rng.uniform(*RECENCY, size=n)
    domains = rng.integers(DOMAINS, size=n)
    wanted = rng.uniform(*COEFFICIENTS, size=n)
    made, coefficients, mapped = [], [], []
    for _ in range(TRIED):
        tokens, share = _drawn(kinds, domains, recency, length, rng)
        made.append(tokens)
        mapped.append(share)
        coefficients.append(zipf(tokens))
    nearest = np.abs(np.array(coefficients) - wanted).argmin(axis=0)
    at = np.arange(n)
    return Documents(
        np.array(made)[nearest, at], kinds, np.array(mapped)[nearest, at], domains, recency,
        np.array(coefficients)[nearest, at],
    )  # fmt: skip


def _drawn(
    kinds: NDArray[np.str_], domains: Ints, recency: FloatArray, length: int, rng: np.random.Generator
) -> tuple[Ints, FloatArray]:
    """Return tokens `[n, length]`, and the share of labels that are mapped `[n]`."""
    n, one, each = len(kinds), np.arange(len(kinds))[:, None], np.arange(length)
    about = _words(domains, n, ABOUT, rng)
    places = _places(recency, rng.uniform(0, 3, size=n), length, rng)
    words, own = about[one, places], _mapped(about, rng)[one, places]
    random = rng.integers(LABELS, size=(n, length))
    begins = np.where(kinds == LISTS, 0, np.where(kinds == MIXED, length // 4, length))[:, None]
    is_list = (each >= begins) | (kinds == HOLLOW)[:, None]
    labels = np.where((kinds == HOLLOW)[:, None], random, np.where(is_list, own, usual(words)))
    follows = is_list | (rng.random((n, length)) < 0.5)
    pairs = np.stack([words, np.where(follows, N_WORDS + labels, -1)], axis=2).reshape(n, -1)
    is_own = np.stack([np.zeros_like(follows), is_list & (kinds != HOLLOW)[:, None]], axis=2).reshape(n, -1)
    tokens, share = np.full((n, length), START), np.zeros(n)
    for i, row in enumerate(pairs):
        there = np.flatnonzero(row >= 0)[: length - 1]
        tokens[i, 1:] = row[there]
        share[i] = is_own[i, there].sum() / max(1, (row[there] >= N_WORDS).sum())
    return tokens, share


def _places(recency: FloatArray, steepness: FloatArray, length: int, rng: np.random.Generator) -> Ints:
    """Return places among a document's words, `[n, length]`: of the last few ones, or of those that are long ago."""
    n = len(recency)
    found = np.empty((n, length), np.int64)
    last = np.argsort(rng.random((n, ABOUT)), axis=1)  # what came last is at the end
    near = rng.random((n, length)) < recency[:, None]
    logs = -steepness[:, None] * np.log(np.arange(1, ABOUT + 1))
    keys = logs[:, None] + rng.gumbel(size=(n, length, ABOUT))  # the largest is a draw by the weights
    for t in range(length):
        scores = np.take_along_axis(keys[:, t], last, 1)
        scores[near[:, t], : ABOUT - NEAR] = -np.inf
        scores[~near[:, t], ABOUT - NEAR :] = -np.inf
        now = np.take_along_axis(last, scores.argmax(1)[:, None], 1)
        found[:, t] = now[:, 0]
        last = np.concatenate([last[last != now].reshape(n, ABOUT - 1), now], axis=1)
    return found


def prompts(n: int, k: int, *, rng: np.random.Generator, domain: int = 0) -> Prompts:
    """Draw prompts of tasks: a mapping of its own for each, and items of its words.

    Args:
        n: How many.
        k: Demonstrations.
        rng: For every choice.
        domain: Of the words, which differ between tasks.
    """
    about = _words(domain, n, LISTED, rng)
    places = rng.integers(LISTED, size=(n, k + 1))
    words, labels = (np.take_along_axis(values, places, 1) for values in (about, _mapped(about, rng)))
    tokens = np.full((n, 2 * k + 2), START)
    tokens[:, 1::2], tokens[:, 2::2] = words, N_WORDS + labels[:, :-1]
    seen = (places[:, :-1] == places[:, -1:]).any(axis=1)
    best = seen | (labels[:, -1] == usual(words[:, -1]))
    return Prompts(tokens, labels[:, -1], best, labels[:, -1] != usual(words[:, -1]))
