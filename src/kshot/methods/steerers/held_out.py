"""Choosing among steerings by the bits of examples that they were not made from."""

from collections.abc import Iterator, Sequence

import numpy as np

from kshot.core.steering import Steering
from kshot.core.types import Example, not_made
from kshot.taskmodel.taskmodel import TaskModel

MOST_ASKED = 32  # examples in a half


def halves(
    examples: Sequence[Example], *, least: int, rng: np.random.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (known, asked) for both halves, as indices; with too few examples for that, all are both known and asked.

    Of what was made none is asked, unless there is nothing else.
    """
    order = rng.permutation(len(examples)).tolist()

    def asking(some: list[int]) -> list[int]:
        return [i for i in some if not examples[i].is_made] or some

    middle = len(order) // 2
    if middle < least:
        yield order, asking(order)
        return
    for known, others in ((order[:middle], order[middle:]), (order[middle:], order[:middle])):
        yield known, asking(others)[:MOST_ASKED]


def held_out(
    examples: Sequence[Example], *, most: int, rng: np.random.Generator
) -> tuple[list[Example], list[Example]]:
    """Divide examples, in random order, into a third, of at most `most`, that is held out, and those that are known.

    Of what was made none is held out, and of the others at most half, unless all was made.
    """
    order = [examples[i] for i in rng.permutation(len(examples))]
    given = not_made(order)
    held = list(given[: min(most, len(order) // 3, (len(given) + 1) // 2)])
    ids = {e.id for e in held}
    return held, [e for e in order if e.id not in ids]


def held_out_best(folds: Sequence[tuple[Sequence[Steering], Sequence[Example]]], model: TaskModel) -> int:
    """Return which of the alternatives has the fewest bits over all folds; the first where they are equal."""
    totals = sum(model.bits_under(steerings, asked).sum(axis=1) for steerings, asked in folds)
    return int(np.argmin(np.nan_to_num(totals, nan=np.inf)))
