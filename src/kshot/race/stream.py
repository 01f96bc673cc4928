"""Test, then train: every example is predicted from the examples before it in a shuffled stream, and nothing else.

Source: Dawid (1984), "Present position and potential developments: the prequential approach",
https://doi.org/10.2307/2981683; for choosing recipes: Bornschein et al. (2025), https://arxiv.org/abs/2512.19879.
"""

from dataclasses import dataclass

import numpy as np

from kshot.core.schedule import refit_point
from kshot.core.seeding import digest, generator
from kshot.core.types import Example, Query, Task
from kshot.methods.generators import GENERATORS
from kshot.methods.loops import LOOPS
from kshot.tasks.validate import without_duplicates

TEXTS_AT_CHECKPOINT = 8
BEND = 1.25  # of `spread`: see docs/race.md


@dataclass(frozen=True)
class Stream:
    """The order in which examples are met, and which of them are predicted.

    Attributes:
        examples: In the order of the stream; all of them are learnt.
        positions: The places in the stream of those that are predicted, in increasing order; none of what a generator
            has made (`is_of_generator`).
        removed: Ids of rows left out because an earlier row has the same input and context.
    """

    examples: tuple[Example, ...]
    positions: tuple[int, ...]
    removed: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identify the ids in their order, and which are predicted."""
        return digest([e.id for e in self.examples], self.positions)

    @property
    def asked(self) -> tuple[Example, ...]:
        """The examples that are predicted."""
        return tuple(self.examples[i] for i in self.positions)

    def queries(self) -> list[Query]:
        """Return each example that is predicted as a query that sees all examples before it.

        Of an open task the answers to the first 8 predictions after each checkpoint (4, 8, 16, 32, … predictions) are
        generated, which costs more than scoring the known answer; the recipes race on the bits of all.
        """
        first = min(4, len(self.positions) - 1)
        return [
            Query(
                self.examples[at],
                self.examples[:at],
                wants_text=i >= first and i - refit_point(i) < TEXTS_AT_CHECKPOINT,
            )
            for i, at in enumerate(self.positions)
        ]


def make_stream(task: Task, *, limit: int, seed: int) -> Stream:
    """Remove repeated rows, shuffle, and spread at most `limit` predictions over the stream.

    What a generator has made comes after what it was made from, and is not predicted.
    """
    kept, removed = without_duplicates(task.train)
    order = generator(seed, "stream").permutation(len(kept))
    examples = _after_sources([kept[i] for i in order])
    given = [i for i, e in enumerate(examples) if not is_of_generator(e)]
    return Stream(tuple(examples), tuple(given[i] for i in spread(len(given), limit)), removed)


def is_of_generator(example: Example) -> bool:
    """Return whether a generator or a loop has made a row of a file, rather than its column "made" meaning another."""
    name = str(example.meta.get("made"))
    return example.is_made and (bool(example.sources) or name in GENERATORS or name in LOOPS)


def _after_sources(examples: list[Example]) -> list[Example]:
    """Return examples in their order, but each that was made from others right after the last of these."""
    place = {e.id: i for i, e in enumerate(examples)}
    made = [e for e in examples if is_of_generator(e)]
    for _ in made:  # what was made from made ones waits for their sources, too
        last = {e.id: max([place[e.id], *(place[i] for i in e.sources if i in place)]) for e in made}
        if all(place[name] == at for name, at in last.items()):
            break
        place |= last
    return sorted(examples, key=lambda e: (place[e.id], is_of_generator(e)))


def spread(n: int, limit: int, *, bend: float = BEND) -> tuple[int, ...]:
    """Return which of `n` places are predicted: at most `limit`, the last one among them, denser where curves bend.

    The j-th of m lies at n (j / m)^bend; where these would coincide, places follow each other one by one.

    Args:
        n: Examples in the stream.
        limit: 1 or more; from `n` on all are predicted.
        bend: 1 spreads them evenly.
    """
    m = min(n, limit)
    ranks = np.arange(1, m + 1)
    ends = np.ceil(np.round(n * (ranks / m) ** bend, 9)).astype(int)
    return tuple((np.maximum(ranks, ends) - 1).tolist())
