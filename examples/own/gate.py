"""A gate: which answers are so doubtful that another recipe is asked."""

from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class Close(kshot.Gate):
    """Doubt an answer whose probability is near that of the next one.

    Attributes:
        margin: Between the two; below it, the answer is doubtful.
    """

    margin: float = 0.2

    def doubt(self, task, said):
        """Return how doubtful an answer is, 0 or more."""
        first, second, *_ = (*sorted(said.probs, reverse=True), 0.0, 0.0)
        return 1 - (first - second)

    def most(self, past):
        """Return the doubt above which the other recipe is asked, whatever the doubts so far."""
        return 1 - self.margin
