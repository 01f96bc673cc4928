"""A judge: how good each step of a written reason is."""

from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class Brief(kshot.Judge):
    """Like short steps: rules in place of a reward model, which could be asked here just as well."""

    def scores(self, reasons, *, model):
        """Return for each reason a score in 0..1 for each of its steps."""
        return [tuple(1 / (1 + len(step.split()) // 10) for step in steps) for _, steps in reasons]
