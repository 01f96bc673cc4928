"""Sets of labels: how one is written as an output, and the yes/no questions that a model answers about it.

An output of a task where any number of labels can be right is one text, as every other output is: the labels in the
task's order with `BETWEEN` between them, or `NOTHING` where none of them is right. So two sets are the same where their
texts are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from kshot.core.seeding import generator
from kshot.core.types import Example, FloatArray, Prediction, Task

BETWEEN = "|"
NOTHING = "(none)"
NONE, COMMA = "none", ", "  # as they are said
NO, YES = ANSWERS = ("no", "yes")
LEAST_DOUBT = -1e-9  # nats: nothing that is read is surer
SURE = 0.5  # a label is in the set where it is more probable, unless a threshold was fitted
MORE_NO = 1  # of the answers that are shown of an example, so many more say no than say yes


def written(labels: Iterable[str], order: Sequence[str]) -> str:
    """Return a set of labels as an output.

    Args:
        labels: The labels that are right; one that is there twice counts once.
        order: The task's labels. Others come last, to be refused by who knows where they stand.
    """
    own = set(labels)
    known = [label for label in order if label in own]
    return BETWEEN.join([*known, *sorted(own.difference(known))]) or NOTHING


def read(output: str) -> tuple[str, ...]:
    """Return the labels of an output, none of `NOTHING`."""
    return () if output == NOTHING else tuple(output.split(BETWEEN))


def is_written(output: str, labels: Sequence[str]) -> bool:
    """Return whether a text is an output of a task with these labels: known ones, in their order, each once."""
    own = read(output)
    return set(own) <= set(labels) and written(own, labels) == output


def answer_of(task: Task, prediction: Prediction) -> str | list[str]:
    """Return the answer of a prediction; the labels that are right, where it is a set of them."""
    return list(read(str(prediction.answer))) if task.is_multi_label else str(prediction.answer)


def indicator(outputs: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return which labels outputs have, `[n_outputs, n_labels]`, as booleans."""
    place = {label: i for i, label in enumerate(labels)}
    found = np.zeros((len(outputs), len(labels)), dtype=bool)
    for row, output in zip(found, outputs, strict=True):
        row[[place[label] for label in read(output)]] = True
    return found


def having(is_right: Iterable[bool], labels: Sequence[str]) -> str:
    """Return the output of the labels that are right."""
    return written([label for label, holds in zip(labels, is_right, strict=True) if holds], labels)


def named(output: str) -> str:
    """Return how a set of labels is said where labels are named: "joy, love", or "none"."""
    return COMMA.join(read(output)) or NONE


def verdict(label: str, *, holds: bool) -> str:
    """Return what a model is to say of one label that it is asked about, such as "joy? yes"."""
    return f"{label}? {YES if holds else NO}"


def verdicts(labels: Sequence[str]) -> tuple[str, ...]:
    """Return all that can be said of labels: of each that it is wrong, then that it is right, `[2 n_labels]`."""
    return tuple(verdict(label, holds=holds) for label in labels for holds in (False, True))


def odds_of_verdicts(row: FloatArray) -> FloatArray:
    """Return by how many nats each label is rather right than wrong, given log-probabilities of `verdicts`."""
    pairs = row.reshape(-1, 2)
    return pairs[:, 1] - pairs[:, 0]


def odds_of_names(row: FloatArray) -> FloatArray:
    """Return by how many nats each label is rather named next than not, given log-probabilities of the labels."""
    p = np.exp(np.minimum(row, LEAST_DOUBT))
    return np.minimum(row, LEAST_DOUBT) - np.log1p(-p)


def shown_by_name(examples: Iterable[Example], labels: Sequence[str]) -> tuple[Example, ...]:
    """Return demonstrations whose sets are said as labels are named; what has no set for its output stays as it is."""
    return tuple(replace(e, output=named(e.output)) if is_written(e.output, labels) else e for e in examples)


@lru_cache(maxsize=4096)
def _in_part(example: Example, labels: tuple[str, ...]) -> Example:
    rng = generator(0, "shown labels", example.id)
    right = read(example.output)
    wrong = [label for label in labels if label not in right]
    some = [wrong[i] for i in rng.permutation(len(wrong))[: len(right) + MORE_NO]]
    lines = [verdict(label, holds=label in right) for label in (*right, *some)]
    return replace(example, output="\n".join(lines[i] for i in rng.permutation(len(lines))))


def shown_by_verdict(examples: Iterable[Example], labels: Sequence[str]) -> tuple[Example, ...]:
    """Return demonstrations as they are shown: in place of its set each has a line for each of some labels.

    All that are right are there, and one more that are wrong, in an order that depends on the example's id alone: were
    right ones first, a model would learn to say yes to whatever it is asked first. What has no set for its output, as
    what is learnt of one label, stays as it is.
    """
    own = tuple(labels)
    return tuple(_in_part(e, own) if is_written(e.output, own) else e for e in examples)
