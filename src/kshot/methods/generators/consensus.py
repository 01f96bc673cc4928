"""The answer that several voters agree on."""

import re
import string
from collections.abc import Sequence

from kshot.core.errors import SettingError
from kshot.methods.generators.intake import likeness

# ASCII punctuation, but for what makes another number of one: its sign, and a point, slash, colon or dash within it
_SIGN = re.compile(rf"(?!(?<=\d)[./:-]\d|(?<!\w)-\.?\d)[{re.escape(string.punctuation)}]")
LEAST_LIKENESS = 0.01  # as in Ensemble-Instruct


def check_possible(agree: int, **voters: int) -> None:
    """Raise a SettingError where more have to agree than there are: `voters` is that number, by its setting's name."""
    ((name, n),) = voters.items()
    if agree > n:
        raise SettingError(f"agree must be at most {name}, which is {n}; got {agree}.")


def consensus(answers: Sequence[str], *, least: int = 2, is_open: bool = True, are_labels: bool = False) -> str | None:
    """Return the answer that at least so many voters give, or that is most like the others; None where there is none.

    Answers are the same that differ in case, ASCII punctuation and white space alone, but for the sign and the point
    of a number; labels are the same where they are equal, as "C" and "C++" are not. Of several that enough voters
    give, the one of most voters is taken, of equals the one that came first, as its first voter wrote it. Where too few
    give the same, texts of an open task still have a consensus if any two of them share words: the one with the largest
    sum of ROUGE-L to the others. Empty answers count for nobody.

    Args:
        answers: One of each voter, the first one's first.
        least: So many have to give the same.
        is_open: Whether texts that share words can be one answer.
        are_labels: Whether answers are labels, as they are written.

    Source: Lee et al. (2023), Ensemble-Instruct, section 2.3, https://arxiv.org/abs/2310.13961. Differs: any number of
        voters; the largest group, where several have agreed; with `least` above 2 there is no second way; numbers keep
        their signs and points.

    Example:
        >>> consensus(["A cat.", "a dog", "a cat"]), consensus(["x", "y", "z"])
        ('A cat.', None)
    """
    groups: dict[str, list[str]] = {}
    for answer in answers:
        if plain := answer if are_labels else " ".join(_SIGN.sub("", answer.lower()).split()):
            groups.setdefault(plain, []).append(answer)
    best = max(groups.values(), key=len, default=[])  # of equals the first
    if len(best) >= least:
        return best[0]
    texts = [own[0] for own in groups.values()]
    if not is_open or are_labels or least > 2 or len(texts) < max(2, len(answers)):
        return None
    likeness_of = [[likeness(a, b) for b in texts] for a in texts]
    if min(likeness_of[i][j] for i in range(len(texts)) for j in range(i)) <= LEAST_LIKENESS:
        return None
    return texts[max(range(len(texts)), key=lambda i: sum(likeness_of[i]))]
