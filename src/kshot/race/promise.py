"""What the chosen recipe promises where it may be unsure: from its past answers, in numbers and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kshot.measures.abstention import UNSURE, Abstention, PastAnswers, confidence
from kshot.race.race import Race

PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)  # that are told


@dataclass(frozen=True)
class Promise:
    """What can be promised.

    Attributes:
        past: The chosen recipe's answers to examples that it did not know.
        wanted: The share of answers that has to be right; None if everything is answered.
    """

    past: PastAnswers
    wanted: float | None

    @cached_property
    def abstention(self) -> Abstention | None:
        """When it answers; None if always."""
        return None if self.wanted is None else self.past.abstention(self.wanted)

    @property
    def record(self) -> dict[str, Any]:
        """What results.json says of it."""
        told = sorted({*PRECISIONS, self.wanted} - {None}) if self.wanted else PRECISIONS
        return {
            "n": len(self.past.right),
            "n_right": sum(self.past.right),
            "n_alike": self.past.n_alike,
            "wanted": self.wanted,
            "shares": [self._share(self.past.abstention(precision)) for precision in told],
            "in_words": self.in_words,
        }

    def _share(self, found: Abstention) -> dict[str, Any]:
        n_answered, n_right = self.past.answered(found)
        share, low, high = self.past.share(found)
        return {
            "precision": found.precision,
            "threshold": found.threshold,
            "share": share,
            "low": low,
            "high": high,
            "n_answered": n_answered,
            "n_right": n_right,
        }

    @property
    def in_words(self) -> str:
        """What is answered, and how sure that is; "" if everything is."""
        found = self.abstention
        if found is None:
            return ""
        if found.threshold is None:
            return self._nothing(found)
        answers = (
            f"{self._in_percent(found)} of queries, those where its answer has a probability of {found.threshold:.3f} "
            f'or more, and is "{UNSURE}" of the others'
        )
        return (
            f"With --abstain {found.precision:g} it answers {answers if found.threshold else 'everything'}. At least "
            f"{100 * found.precision:g} % of its answers are right: that holds with a probability of 95 %, as long as "
            "inputs are like the examples."
        )

    def _nothing(self, found: Abstention) -> str:
        """Return what is said where nothing can be promised."""
        best = self.past.best(found.precision)
        less = (
            f"--abstain {best.precision:g} can be promised for {self._in_percent(best)} of queries"
            if best
            else "nothing lower can be promised either, without more examples"
        )
        return (
            f"--abstain {found.precision:g} cannot be promised by {len(self.past.right)} answers to examples that it "
            f'did not know, {sum(self.past.right)} of them right, so it is "{UNSURE}" of everything; {less}.'
        )

    def _in_percent(self, found: Abstention) -> str:
        share, low, high = (100 * value for value in self.past.share(found))
        return f"{share:.0f} % ({low:.0f} to {high:.0f})"


def promise(race: Race, comparisons: Sequence[Mapping[str, Any]], wanted: float | None) -> Promise | None:
    """Return what the first of the leaderboard promises; None where an answer has no probability of its own.

    So it is with texts, and with sets of labels, which have one for each label.

    Args:
        race: At its end.
        comparisons: What `compare_all` returns: recipes that are worse than the chosen one count for nothing.
        wanted: The share of answers that has to be right.
    """
    if race.measuring.task.is_open or race.measuring.task.is_multi_label:
        return None
    worse = {c["recipe"] for c in comparisons if c["verdict"].startswith("worse")}
    n_alike = sum(e.recipe.name not in worse for e in race.eligible())
    rows = race.rows_of_chosen()
    answers = [(confidence(r["answer"], r["candidates"], r["probs"]), r["answer"] == r["gold"]) for r in rows]
    return Promise(PastAnswers.of(answers, n_alike), wanted)
