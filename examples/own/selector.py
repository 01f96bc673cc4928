"""A selector: which examples are shown."""

from dataclasses import dataclass, replace

import kshot


@dataclass(frozen=True)
class Shortest(kshot.Selector):
    """Show the shortest examples.

    Attributes:
        reverse: The longest instead.
    """

    reverse: bool = False
    _order: tuple[int, ...] = ()  # what fit remembers: no setting

    per_query = False  # True: fitted on all the past at every step, and select gets the question

    def fit(self, pool, *, model, rng):
        """Sort the pool."""
        order = sorted(range(len(pool)), key=lambda i: len(pool[i].input), reverse=self.reverse)
        return replace(self, _order=tuple(order))

    def select(self, question, k, *, rng):
        """Return indices into the pool, the last one next to the question."""
        return list(self._order[:k])
