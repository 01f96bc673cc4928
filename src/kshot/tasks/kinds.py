"""Which kind of task rows are, where nobody says it: guessed from choices, references and how outputs repeat.

An output that came once says how often a new one will come: the share of rows whose output no other row has estimates
the probability that the next output is an unseen one (Good and Turing). Labels are outputs of which that is small.
"""

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

from kshot.core.types import Example, Kind
from kshot.tasks.missing import trimmed

MAX_LABELS = 50  # of which two rows each are enough; more labels must repeat more
ROWS_EACH, ROWS_EACH_OF_MANY, ROWS_EACH_OF_NUMBERS = 2, 5, 20
MAX_UNSEEN = 0.2  # the estimated share of outputs that are still to come
MANY_ROWS = 20  # from which on the estimate is worth something
SHORT, LABEL_WORDS = 8, 3  # words
NUMBER = re.compile(r"[-+]?[$€£]?[0-9][0-9,]*(\.[0-9]+)?")
MARK = re.compile(r"-?[0-9]{1,6}(\.[05]0*)?")  # what a rating or a class can be: whole and half numbers
RATINGS = (-1, 5)
SCALE = (0, 10)


def guessed_kind(train: Sequence[Example]) -> Kind:
    """Return the kind of a task by its train rows.

    Rows with choices are multiple choice. Outputs that repeat enough to be a closed set are labels: each twice, or five
    times where there are more than 50, and few that come once. Numbers are labels where they are ratings (-1 to 5), or
    classes (0, 1, 2, … or 1, 2, 3, … without a gap, or within 0 to 10), or come twenty times each; else they are math.
    Texts that the rows list references for, or that stand in the row's context, are answers to questions (qa) if they
    are short. Anything else is generation.
    """
    if any(e.choices for e in train):
        return "multiple_choice"
    outputs = [trimmed(e.output) for e in train]
    are_numbers = all(NUMBER.fullmatch(output) for output in outputs)
    short = median(len(output.split()) for output in outputs) <= SHORT
    if any(e.references for e in train):
        return "qa" if short else "generation"
    if (_are_marks if are_numbers else are_labels)(Counter(outputs)):
        return "classification"
    if are_numbers:
        return "math"
    in_context = sum(output.lower() in (e.context or "").lower() for e, output in zip(train, outputs, strict=True))
    return "qa" if short and in_context * 2 > len(train) else "generation"


def are_labels(counts: Counter[str]) -> bool:
    """Return whether outputs, with how often each comes, are a closed set of texts."""
    if not _repeat(counts):
        return False
    n_rows, n_once = counts.total(), sum(n == 1 for n in counts.values())
    if n_once * 2 <= len(counts):
        return True
    likely_new = n_rows >= MANY_ROWS and n_once > MAX_UNSEEN * n_rows
    return not likely_new and median(len(output.split()) for output in counts) <= LABEL_WORDS


def _are_marks(counts: Counter[str]) -> bool:
    """Return whether numbers, with how often each comes, name classes or ratings, and no amounts."""
    if len(counts) == counts.total() or not all(MARK.fullmatch(output) for output in counts):
        return False
    numbers = sorted({float(output) for output in counts})
    low, high = numbers[0], numbers[-1]
    if RATINGS[0] <= low and high <= RATINGS[1]:
        return True
    without_gap = low in (0, 1) and high - low + 1 == len(numbers)
    is_scale = SCALE[0] <= low and high <= SCALE[1]
    if min(counts.values()) > 1 or is_scale:
        often = counts.total() >= ROWS_EACH_OF_NUMBERS * len(counts)
        return often or (_repeat(counts) and (without_gap or is_scale))
    return False


def _repeat(counts: Counter[str]) -> bool:
    each = ROWS_EACH if len(counts) <= MAX_LABELS else ROWS_EACH_OF_MANY
    return len(counts) < counts.total() and (len(counts) <= 2 or counts.total() >= each * len(counts))
