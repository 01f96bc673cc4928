"""A recipe in the race."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kshot.core.types import Prediction
from kshot.learners.learner import Learner
from kshot.measures.calibration import UNCALIBRATED, Calibration
from kshot.recipes.recipe import Recipe


@dataclass
class Entrant:
    """A recipe in the race.

    Attributes:
        recipe: What runs.
        status: "racing"; else why it does not: its status on the leaderboard.
        reason: More about the status, if there is more.
        predictions: Of the stream so far, as the learner gave them.
        said: Of the stream so far, by what would be handed over, where that is calibrated.
        rows: Sample rows of them.
        again: Sample rows of the second look: the recipe as it will be handed over, on examples it does not know.
        final: Of what combines the run, sample rows of the stream by what will be handed over.
        calibration: That of the model that would be handed over.
        settled: What has won in the race of the recipe's settings.
        configurations: How they stand.
        notes: What its methods have noted.
        failure: Where it failed, as Python tells it.
    """

    recipe: Recipe
    status: str = "racing"
    reason: str | None = None
    predictions: list[Prediction] = field(default_factory=list)
    said: Sequence[Prediction] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)
    final: list[dict[str, Any]] = field(default_factory=list)
    calibration: Calibration = UNCALIBRATED
    settled: Recipe | None = None
    configurations: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None
    learner: Learner | None = None

    @property
    def along(self) -> list[dict[str, Any]]:
        """The sample rows of the stream on which what is expected of it rests, and what is promised."""
        return self.final or self.rows

    @property
    def is_racing(self) -> bool:
        """Whether it goes on."""
        return self.status == "racing"

    @property
    def is_lost(self) -> bool:
        """Whether it cannot be handed over: it has failed, or the budget is not enough for it."""
        return self.status in ("failed", "diverged", "out-of-budget")

    @property
    def made(self) -> dict[str, Any] | None:
        """What its generator has last made and rejected; None of a recipe that has made nothing yet."""
        counts = [note for note in self.notes if "generator" in note and "made" in note]
        return {key: value for key, value in counts[-1].items() if key != "generator"} if counts else None

    @property
    def tokens(self) -> float:
        """What its predictions have cost so far."""
        return sum(p.tokens + p.fit_tokens for p in self.predictions)

    def stop(self, status: str, reason: str | None = None) -> None:
        """Take it out of the race."""
        self.status, self.reason = status, reason
        if self.learner:
            self.learner.finish(forget=status == "dropped")
        self.learner = None
