"""Test, then train: every example is predicted from the examples before it in a shuffled stream, and nothing else.

Source: Dawid (1984), "Present position and potential developments: the prequential approach",
https://doi.org/10.2307/2981683; for choosing recipes: Bornschein et al. (2025), https://arxiv.org/abs/2512.19879.
"""

from dataclasses import dataclass

from kshot.core.schedule import refit_point
from kshot.core.seeding import digest, generator
from kshot.core.types import Example, Query, Task
from kshot.tasks.validate import without_duplicates

TEXTS_AT_CHECKPOINT = 8


@dataclass(frozen=True)
class Stream:
    """The order in which examples are met.

    Attributes:
        examples: In the order of the stream.
        rest: Training examples beyond the limit, in the order of the stream: they are learnt, not predicted.
        removed: Ids of rows left out because an earlier row has the same input and context.
    """

    examples: tuple[Example, ...]
    rest: tuple[Example, ...]
    removed: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Identify the ids in their order."""
        return digest([e.id for e in self.examples])

    def queries(self) -> list[Query]:
        """Return each example as a query that sees the examples before it.

        Of an open task the answers to the first 8 examples after each checkpoint (4, 8, 16, 32, …) are generated,
        which costs more than scoring the known answer; the recipes race on the bits of all.
        """
        first = min(4, len(self.examples) - 1)
        return [
            Query(e, self.examples[:i], wants_text=i >= first and i - refit_point(i) < TEXTS_AT_CHECKPOINT)
            for i, e in enumerate(self.examples)
        ]


def make_stream(task: Task, *, limit: int, seed: int) -> Stream:
    """Remove repeated rows, shuffle, and take the first `limit` for the stream."""
    kept, removed = without_duplicates(task.train)
    order = generator(seed, "stream").permutation(len(kept))
    shuffled = tuple(kept[i] for i in order)
    return Stream(shuffled[:limit], shuffled[limit:], removed)
