"""Labels that nobody has seen yet: an adapted model for those that have examples, the base for the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import TypedDict

from kshot.core.fields import setting, state
from kshot.core.types import Example, Prediction, Task
from kshot.measures.probabilities import mixed
from kshot.methods.contracts import Combiner


class _Remembered(TypedDict):
    _calibrations: list[dict[str, Any]]
    _seen: list[str]
    _new: float
    _has_all: bool


@dataclass(frozen=True)
class NewLabels(Combiner):
    """Answer with the first recipe among the labels that have examples, and with the second among the others.

    p(y) = (1 - pi) p_first(y) / p_first(seen) for labels with examples, and pi p_second(y) / p_second(unseen) for the
    others: training unlearns labels that it has no example of, and a model that was not trained knows them still. pi is
    the chance that the next label is a new one, by Good and Turing from the labels that came once among the n examples
    known, n1 / (n + 1), times how far that was right before: over the later half of the examples the number of those
    whose label was new, over the sum of what was expected of each, both with `trust` examples added that came as
    expected. It is 0 where all labels have examples: then the first recipe is alone, and the second is not
    asked any more.

    Attributes:
        trust: The number of made-up examples that speak for Good and Turing.

    Source: Good (1953), The population frequencies of species, https://doi.org/10.1093/biomet/40.3-4.237.
    Differs: n + 1 instead of n, as of one example it cannot be certain that the next label is new; corrected by its own
    record.
    """

    trust: float = setting(2.0, above=0.0)
    _seen: tuple[str, ...] = state(())
    _new: float = state(1.0)
    _has_all: bool = state(False)

    learns: ClassVar[bool] = True
    most_members: ClassVar[int] = 2
    remembered: ClassVar[type | None] = _Remembered

    def suits(self, task: Task) -> bool:
        """Return whether all questions have the same labels."""
        return task.kind == "classification"

    def knowing(self, task: Task, known: Sequence[Example]) -> Self:
        """Return the same with the labels of `known`, and the chance that the next one is new."""
        counts: Counter[str] = Counter()
        once, expected, came = 0, self.trust, self.trust
        for n, example in enumerate(known):
            if n >= len(known) // 2:
                expected += once / (n + 1) if n else 1.0
                came += not counts[example.output]
            counts[example.output] += 1
            once += {1: 1, 2: -1}.get(counts[example.output], 0)
        seen = tuple(label for label in task.labels if counts[label])
        chance = min(1.0, once / (len(known) + 1) * came / expected) if seen else 1.0
        has_all = len(seen) == len(task.labels)
        return replace(self, _seen=seen, _new=0.0 if has_all else chance, _has_all=has_all)

    def kept(self, n: int) -> tuple[Self, tuple[int, ...]]:
        """Return the same without the second recipe once all labels have examples."""
        return self, tuple(range(1 if self._has_all else n))

    def holds(self, task: Task, n: int) -> bool:
        """Return whether what it remembers are labels of the task, and a chance."""
        return set(self._seen) <= set(task.labels) and 0 <= self._new <= 1 and super().holds(task, n)

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the first member's prediction among the labels seen, the second's among the others."""
        first, *others = members
        if self._has_all or not others:
            return first
        seen = np.isin(first.candidates, self._seen)
        probabilities = np.zeros(len(seen))
        for member, part, share in ((first, seen, 1 - self._new), (others[0], ~seen, self._new)):
            if part.any():
                own = np.where(part, member.probs, 0.0)
                probabilities += share * own / own.sum()
        probabilities = mixed(probabilities)
        logs, answer = np.log(probabilities), first.candidates[int(np.argmax(probabilities))]
        return replace(first, log_probs=tuple(logs.tolist()), probs=tuple(probabilities.tolist()), answer=answer)
