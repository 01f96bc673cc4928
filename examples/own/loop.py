"""A loop: works on the task for some rounds, and leaves notes or demonstrations."""

from collections import Counter
from dataclasses import dataclass

import kshot


@dataclass(frozen=True)
class MostFrequent(kshot.Loop):
    """Note which output is the most frequent so far."""

    def run(self, examples, *, model, rng):
        """Return the note; it is said after the instruction."""
        ((output, _),) = Counter(e.output for e in examples).most_common(1)
        return kshot.Artefact(notes=(f"The most frequent answer is {output}.",))
