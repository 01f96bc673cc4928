"""A generator: more examples, made from those that are known."""

from dataclasses import dataclass, replace

import kshot


@dataclass(frozen=True)
class Reversed(kshot.Generator):
    """Turn the words of each input around; the output stays."""

    def generate(self, seeds, *, model, rng):
        """Return the examples, each marked as made and with an id of its own."""
        made = []
        for seed in seeds[: self.n]:
            text = " ".join(reversed(seed.input.split()))
            made.append(replace(seed, input=text, id=f"{seed.id}-reversed", meta={"made": "reversed"}))
        return kshot.Made(tuple(made))
