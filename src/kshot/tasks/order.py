"""The order of labels, the lowest first, such as stars: what `task.json` may say of it, and what looks like one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral

from kshot.core.errors import UserError
from kshot.core.types import Task

METRICS_OF_ORDER = ("quadratic_kappa", "mae", "accuracy")
FEWEST = 3  # labels that a guess is about: of two the order changes no distance
MOST_NUMBERS = 11  # 0 to 10; more numbers are rather those of classes
MOST_SHOWN = 8
NUMBER = re.compile(r"[-+]?[0-9]{1,6}(\.[0-9]{1,6})?")
WORD = re.compile(r"[^\W\d_]+")
# Scales in common use, each the lowest first; several words may stand for one step
SCALES: Sequence[Sequence[str]] = (
    ("none", "minimal very_low", "low", "medium moderate mid", "high", "very_high severe", "extreme critical"),
    ("none", "trivial", "minor mild", "moderate", "major severe", "critical", "blocker fatal"),
    ("tiny xs extra_small", "small s", "medium m", "large l", "huge xl extra_large", "xxl"),
    ("very_easy", "easy", "medium moderate", "hard difficult", "very_hard very_difficult"),
    ("beginner novice", "intermediate", "advanced", "expert"),
    ("never", "rarely seldom", "sometimes occasionally", "often frequently", "always"),
    ("very_bad terrible awful", "bad poor", "ok okay fair average neutral", "good", "very_good great", "excellent"),
    ("very_negative", "negative", "neutral mixed", "positive", "very_positive"),
    ("strongly_disagree", "disagree", "neutral neither", "agree", "strongly_agree"),
    ("very_dissatisfied", "dissatisfied", "neutral", "satisfied", "very_satisfied"),
    ("very_unlikely", "unlikely", "possible neutral", "likely", "very_likely"),
    ("cold", "cool", "warm", "hot"),
    ("first", "second", "third", "fourth", "fifth", "sixth", "seventh"),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
)


def as_label(value: object) -> object:
    """Return a label of `order` as rows have it: whole numbers as text, all else as it is."""
    return str(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def check_order(order: Sequence[str] | None, labels: Sequence[str], kind: str | None, answer: str | None) -> str | None:
    """Return what is wrong with the order that a task's card says, with the remedy; None if nothing.

    Args:
        order: The labels, the lowest first; empty: they have none; None: it is not said.
        labels: Those that the card lists beside it, if it does.
        kind: The task's, where the card says it.
        answer: How one of the labels is chosen, where the card says it.
    """
    if answer == "median" and not order:
        return "'answer' is \"median\", which needs an order of the labels; write 'order', the lowest label first."
    if not order:
        return None
    if kind not in (None, "classification"):
        return f"'order' is of labels, and the kind is {kind}; leave one of them out."
    if len(order) < 2:
        return f"'order' must have two labels or more, the lowest first; got {', '.join(order)}."
    missing = [label for label in labels if label not in order]
    unknown = [label for label in order if label not in labels]
    if labels and (missing or unknown):
        said = [f"'{missing[0]}' of 'labels' is not in it"] if missing else []
        said += [f"'{unknown[0]}' is not in 'labels'"] if unknown else []
        return f"'order' must have each label once, the lowest first; {', and '.join(said)}; write 'order' alone."
    return None


def in_learnt_order(task: Task, learnt: Task) -> Task:
    """Return a task whose rows are asked with the labels and the order that were learnt, if there is one.

    Raises:
        UserError: Its own order is another one.
    """
    if not learnt.ordered:
        return task
    shared = [label for label in learnt.labels if label in task.labels]
    if task.ordered and list(task.labels) != shared:
        raise UserError(
            f"The labels of '{task.name}' must be in the order that was learnt, {' < '.join(shared)}; got "
            f"{' < '.join(task.labels)}. Correct 'order' in its task.json, or adapt again."
        )
    return replace(task, labels=learnt.labels, ordered=True, answer=learnt.answer)


def order_note(labels: Sequence[str]) -> tuple[str, ...]:
    """Return a note on labels that look ordered, where nobody has said their order."""
    order = likely_order(labels)
    if order is None:
        return ()
    shown = " < ".join(order[:MOST_SHOWN]) + (" < …" if len(order) > MOST_SHOWN else "")
    return (
        f"the labels look ordered ({shown}); if they are, give their order in task.json as 'order', the lowest first, "
        'so that distances count; if not, say "order": []',
    )


def likely_order(labels: Iterable[str]) -> tuple[str, ...] | None:
    """Return labels in the order that they seem to have; None where they seem to have none.

    Numbers, texts that differ in one number alone ("1 star", "2 stars"), and words of a scale in common use.

    Example:
        >>> likely_order(["high", "low", "medium"])
        ('low', 'medium', 'high')
    """
    known = tuple(labels)
    if len(known) < FEWEST:
        return None
    numbers = {label: found for label in known if (found := _number(label)) is not None}
    if len(numbers) == len(known) <= MOST_NUMBERS:
        return tuple(sorted(known, key=numbers.__getitem__)) if len({*numbers.values()}) == len(known) else None
    bare = {label: "_".join(WORD.findall(label.casefold())) for label in known}
    for scale in SCALES:
        steps = {word: step for step, words in enumerate(scale) for word in words.split()}
        places = {steps[word] for word in bare.values() if word in steps}
        if len(places) == len(known) and all(word in steps for word in bare.values()):
            return tuple(sorted(known, key=lambda label: steps[bare[label]]))
    return None


def _number(label: str) -> float | None:
    """Return the number that a label is, or the only one in "3 stars" or "level 3"."""
    if NUMBER.fullmatch(label):
        return float(label)
    found = re.findall(r"[0-9]{1,6}", label)
    words = WORD.findall(label.casefold())
    rank = {"star", "stars", "point", "points", "level", "grade", "stage", "score", "rating", "out", "of"}
    return float(found[0]) if len(found) == 1 and words and rank.issuperset(words) else None
