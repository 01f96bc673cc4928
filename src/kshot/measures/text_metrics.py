"""Scores of free text: each compares an answer with a row's accepted outputs and keeps the best match.

BLEU, chrF and the F1 of pieces are not means of rows' scores, but formulas over counts that add up over rows; those
counts are a row's `..._statistics`. A bootstrap resample then costs one weighted sum.
"""

import html
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import cache
from math import isnan
from typing import Any

from kshot.core.number_lists import number_list

References = Sequence[str]
_CHRF_ORDERS = range(1, 7)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(
    r"(?:(?<![\w)])([-−])[$€£¥]?)?"  # a minus, unless it subtracts ("7-5") or joins ("covid-19")
    r"((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
ENTITY = re.compile(r"(?P<value>.+?)\s*\[\s*(?P<type>[^\[\]]+?)\s*\]")
SLOT = re.compile(r"(?P<type>[^=]+?)\s*=\s*(?P<value>.+)")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def exact_match(references: References, answer: str) -> float:
    """Return 1 if the answer is a reference, but for white space: outer is stripped, inner counts as one blank.

    Case, punctuation and accents count. See `squad_exact_match` for the measure of question answering.
    """
    return float(_spaced(answer) in map(_spaced, references))


def last_number(text: str) -> Decimal | None:
    """Return the last number in `text`, or None: "-$1,200.50 in all" is -1200.5 and "25%" is 25.

    Fractions are not read as such ("3/4" ends with a 4), nor are exponents, nor numbers in words.
    """
    return numbers[-1] if (numbers := numbers_in(text)) else None


def numbers_in(text: str) -> list[Decimal]:
    """Return the numbers in a text, in their order, each as `last_number` reads it."""
    found = _NUMBER.findall(text)
    # Minus as an operator would round to 28 digits
    return [Decimal(("-" if sign else "") + digits.replace(",", "")) for sign, digits in found]


def exact_match_number(references: References, answer: str) -> float:
    """Return 1 if the answer's last number equals a reference's, as 18.0 equals 18; without a number it is 0.

    The last one, because a worked solution ends with its result.

    Source: Cobbe et al. (2021), https://arxiv.org/abs/2110.14168. Differs: the last number counts, not the one
        after "####".
    """
    number = last_number(answer)
    return float(number is not None and number in map(last_number, references))


def smape_score(references: References, answer: str) -> float:
    """Return 1 - the mean of |y - z| / (|y| + |z|) over the numbers y of a reference and z of the answer, in turn.

    Both 0 is no error. A number too few or too many, and an answer that is no list of numbers, is all wrong.

    Source: Makridakis (1993), Accuracy measures, https://doi.org/10.1016/0169-2070(93)90079-3. Differs: half the
        symmetric mean absolute percentage error, taken from 1, so that more is better and it lies in 0..1.
    """
    return max(_smape_score(reference, answer) for reference in references)


def is_number_list(reference: str) -> bool:
    """Return whether a text is a list of numbers without gaps."""
    found = number_list(reference)
    return found is not None and len(found.known) == len(found.values)


def _smape_score(reference: str, answer: str) -> float:
    wanted, found = number_list(reference), number_list(answer)
    if wanted is None or found is None:
        return 0.0
    pairs = [(y, z) for y, z in zip(wanted.values, found.values, strict=False) if not (isnan(y) or isnan(z))]
    errors = [abs(y - z) / (abs(y) + abs(z)) if y != z else 0.0 for y, z in pairs]
    n = max(len(wanted.values), len(found.values))
    return 1 - (sum(errors) + n - len(pairs)) / n


def set_exact_match(references: References, answer: str) -> float:
    """Return 1 if the answer lists the same items as a reference, in any order, any number of times, in any case.

    Commas separate items in a reference that has one, such as "polar bear, cat"; otherwise each word is an item. The
    answer is read in the same way as the reference.

    Source: Honovich et al. (2023), https://arxiv.org/abs/2205.10782. Differs: items between commas stay whole,
        punctuation counts, and "and" is a word as any other.
    """

    def matches(reference: str) -> bool:
        separator = "," if "," in reference else r"[\s,]"
        gold, given = (
            {_spaced(item) for item in re.split(separator, text.casefold()) if item.strip()}
            for text in (reference, answer)
        )
        return gold == given

    return float(any(map(matches, references)))


def _squad_normal(text: str) -> str:
    return _spaced(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)))


def squad_exact_match(references: References, answer: str) -> float:
    """Return 1 if the answer is a reference but for case, ASCII punctuation, a/an/the and white space.

    Source: Rajpurkar et al. (2016), https://arxiv.org/abs/1606.05250, its evaluation script v1.1. Differs: nothing.
    """
    return float(_squad_normal(answer) in map(_squad_normal, references))


def squad_says(reference: str, answer: str) -> bool:
    """Return whether a reference stands in an answer as words of its own, compared as `squad_exact_match` does."""
    said, wanted = (f" {_squad_normal(text)} " for text in (answer, reference))
    return bool(wanted.strip()) and wanted in said


def _f1(n_common: float, n_both: float) -> float:
    """Return the harmonic mean of precision and recall, 2 common / (answered + gold); 0 where there is nothing."""
    return 2 * n_common / n_both if n_both else 0.0


def _n_common(first: Iterable[Any], second: Iterable[Any]) -> int:
    return (Counter(first) & Counter(second)).total()


def _best_token_f1(
    references: References,
    answer: str,
    tokens: Callable[[str], list[str]],
    n_common: Callable[[list[str], list[str]], int],
) -> float:
    given = tokens(answer)
    golds = map(tokens, references)
    return max(_f1(n_common(gold, given), len(gold) + len(given)) for gold in golds)


def squad_f1(references: References, answer: str) -> float:
    """Return the F1 of the answer's words against the best reference, both normalised as in `squad_exact_match`.

    Source: Rajpurkar et al. (2016), https://arxiv.org/abs/1606.05250, its evaluation script v1.1. Differs: nothing.
    """
    return _best_token_f1(references, answer, lambda text: _squad_normal(text).split(), _n_common)


def _rouge_tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def n_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in one big integer for a column of the usual table.

    Bit i of `row` is 0 where the subsequence with first[:i + 1] is longer than the one with first[:i].

    Source: Crochemore et al. (2001), https://doi.org/10.1016/S0020-0190(01)00182-X. Differs: nothing.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matches = row & places.get(token, 0)
        row = (row + matches) | (row - matches)
    return len(first) - (row & full).bit_count()


def rouge1(references: References, answer: str) -> float:
    """Return the F1 of the answer's words, runs of a-z and 0-9 in lower case, against the best reference.

    Text in other alphabets has no such words and scores 0; chrf suits it.

    Source: Lin (2004), https://aclanthology.org/W04-1013/. Differs: nothing from Google's rouge-score without
        stemming; Lin's own script stems and averages differently.
    """
    return _best_token_f1(references, answer, _rouge_tokens, _n_common)


def rouge_l(references: References, answer: str) -> float:
    """Return the F1 of the longest common subsequence of words, as in `rouge1`, with the best reference.

    Source: Lin (2004), https://aclanthology.org/W04-1013/. Differs: nothing from Google's rouge-score without
        stemming; the whole text is one sequence, which is not rougeLsum.
    """
    return _best_token_f1(references, answer, _rouge_tokens, n_common_subsequence)


@cache
def _sacrebleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU  # takes 0.1 s, which `import kshot` must not

    return BLEU(effective_order=True)


def sentence_bleu(references: References, answer: str) -> float:
    """Return the BLEU of one row: orders of n-grams that the answer is too short for do not count.

    See `bleu` for the source.
    """
    return min(1.0, _sacrebleu().sentence_score(answer, list(references)).score / 100)


def bleu_statistics(references: References, answer: str) -> list[float]:
    """Return the lengths of answer and closest reference, then 4 counts of matched and 4 of all n-grams, [10]."""
    found = _sacrebleu().sentence_score(answer, list(references))
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def bleu(sums: Sequence[float]) -> float:
    """Return corpus BLEU from sums of `bleu_statistics`: sacrebleu's, tokenizer 13a, smoothing "exp".

    Source: Papineni et al. (2002), https://aclanthology.org/P02-1040/, as fixed by Post (2018),
        https://arxiv.org/abs/1804.08771. Differs: in 0..1, not 0..100.
    """
    answer, reference, *counts = map(int, sums)
    return min(1.0, _sacrebleu().compute_bleu(counts[:4], counts[4:], answer, reference, "exp").score / 100)


def chrf_statistics(references: References, answer: str) -> list[float]:
    """Return for 1 to 6 characters the counts of the answer's, the reference's and common n-grams, [18].

    The reference is the one with the best `chrf`. White space does not count.
    """

    def ngrams(text: str) -> list[Counter[str]]:
        text = "".join(text.split())
        return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in _CHRF_ORDERS]

    given = ngrams(answer)
    rows = []
    for gold in map(ngrams, references):
        pairs = zip(given, gold, strict=True)
        rows.append([x for g, r in pairs for x in (g.total() if r else 0, r.total(), (g & r).total())])
    return max(rows, key=chrf)


def chrf(sums: Sequence[float]) -> float:
    """Return corpus chrF from sums of `chrf_statistics`: (1 + b^2) P R / (b^2 P + R), where b = 2.

    P and R are means over the orders of n-grams that both sides have.

    Source: Popović (2015), https://aclanthology.org/W15-3049/. Differs: nothing from sacrebleu's (b = 2, 6 orders,
        the mean over present orders), but in 0..1.
    """
    orders = [sums[i : i + 3] for i in range(0, len(sums), 3)]
    present = [(common / given, common / gold) for given, gold, common in orders if given and gold]
    if not any(precision for precision, _ in present):
        return 0.0
    precision, recall = (sum(column) / len(present) for column in zip(*present, strict=True))
    return 5 * precision * recall / (4 * precision + recall)


def pieces(pattern: re.Pattern[str], text: str) -> list[tuple[str, str] | None]:
    """Return (type, value) of each part of a list, None for parts that do not match; "none" has no parts.

    Parts end at ";" or a line break. Entities of HTML are resolved first, as "&amp;" would end a part.

    Args:
        pattern: `ENTITY` for "Ada Lovelace [person]; Paris [location]", `SLOT` for "city=paris; day=monday".
        text: The list.
    """
    parts = [_spaced(part) for part in re.split(r"[;\n]", html.unescape(text))]
    matches = [pattern.fullmatch(part) for part in parts if part and part.casefold() != "none"]
    return [(match["type"], match["value"]) if match else None for match in matches]


def piece_statistics(pattern: re.Pattern[str], references: References, answer: str) -> Sequence[float]:
    """Return how many pieces the answer shares with the best reference, and how many both have together, [2].

    Parts of the answer that are no pieces are left out: they name nothing that could be wrong.
    """

    def found(text: str) -> list[tuple[str, str]]:
        return [piece for piece in pieces(pattern, text) if piece is not None]

    given = found(answer)
    rows = [[_n_common(gold, given), len(gold) + len(given)] for gold in map(found, references)]
    return max(rows, key=piece_f1)


def piece_f1(sums: Sequence[float]) -> float:
    """Return the micro F1 from sums of `piece_statistics`; 1 where neither side has any piece.

    A piece that stands twice has to be given twice.

    Source: Tjong Kim Sang and De Meulder (2003), https://aclanthology.org/W03-0419/. Differs: (type, value) pairs
        are compared, not spans of the text.
    """
    n_common, n_both = sums
    return _f1(n_common, n_both) if n_both else 1.0
