"""A combiner: one answer of the answers of several recipes."""

from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class MostSure(kshot.Combiner):
    """Take the answer of whoever is most sure of it."""

    def combine(self, task, members):
        """Return the combined prediction of one question."""
        return max(members, key=lambda prediction: max(prediction.probs))
