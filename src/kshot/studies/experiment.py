"""What a study that trains networks from scratch must be: cells that do not need each other, and what came out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kshot.core.errors import SettingError
from kshot.core.part import Part
from kshot.core.progress import Progress

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A piece of work that needs no other, such as the training of one network.

    Attributes:
        name: Unlike all others of its study; letters, digits and `. _ - + =`, as a file is called so.
        steps: Of training, where the study takes the time that it usually takes.
        settings: What it is about, as JSON.
    """

    name: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def steps_at(self, scale: float) -> int:
        """Return how many steps are taken where a study takes `scale` times its usual time; 1 at least."""
        return max(1, round(self.steps * scale))


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        name: For the legend.
        x: `[n]`.
        y: `[n]`.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        title: What it shows, a sentence without a stop.
        x_title: With the unit, if there is one.
        y_title: The same.
        curves: In the order of the legend.
        chance: Where a dashed line is drawn: what guessing gives.
        log_x: Whether equal ratios of x are equally far apart.
    """

    title: str
    x_title: str
    y_title: str
    curves: Sequence[Curve]
    chance: float | None = None
    log_x: bool = False


@dataclass(frozen=True)
class Claim:
    """Something that a paper says came out, and what came out here.

    Attributes:
        sentence: A direction, as the paper has it.
        measured: A number, such as a difference between two cells.
        bar: The number that has to be passed.
        below: It holds where `measured` is smaller than the bar, and not where it is larger.
    """

    sentence: str
    measured: float
    bar: float
    below: bool = False

    @property
    def holds(self) -> bool:
        """Whether it came out so."""
        return self.measured < self.bar if self.below else self.measured > self.bar

    def to_json(self) -> dict[str, Any]:
        """Return it with whether it holds."""
        return {**asdict(self), "holds": self.holds}


@dataclass(frozen=True)
class Findings:
    """What came out of a study.

    Attributes:
        plots: Figures.
        columns: Of the table.
        table: Rows of texts and numbers, as long as `columns`.
        claims: What the paper says, and whether it came out.
    """

    plots: Sequence[Plot]
    columns: Sequence[str]
    table: Sequence[Sequence[str | float | None]]
    claims: Sequence[Claim]

    def to_json(self) -> dict[str, Any]:
        """Return what `kshot study --json` prints of them."""
        return {
            "plots": [asdict(plot) for plot in self.plots],
            "table": [dict(zip(self.columns, row, strict=True)) for row in self.table],
            "claims": [claim.to_json() for claim in self.claims],
        }


@dataclass(frozen=True)
class Experiment(Part):
    """Small networks that are trained from scratch, to see what they learn from what (`kshot study NAME`).

    Attributes:
        minutes: How long the whole takes on two cores, about; `kshot study --minutes` scales the steps by it.
    """

    minutes: ClassVar[float] = 12.0

    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """Return all pieces of work, in the order in which they are begun."""

    @abstractmethod
    def run(
        self, cell: Cell, *, rng: np.random.Generator, progress: Progress, scale: float, state: Path | None = None
    ) -> list[dict[str, Any]]:
        """Do a piece of work, and return rows of JSON: what was measured, such as one row for each point of a curve.

        Args:
            cell: One of `cells`.
            rng: For every random choice; it depends on the seed and the cell's name alone.
            progress: `advance(n)` is told of steps that are done, `cell.steps_at(scale)` in all.
            scale: The share of the usual steps that is taken.
            state: A file for where a training is, so that it goes on there after an interruption
                (`kshot.studies.networks.train`); it is taken away when the cell is done. None: it is not kept.
        """

    @abstractmethod
    def findings(self, rows: Sequence[Row]) -> Findings:
        """Return what came out.

        Args:
            rows: Of all cells in their order; each has its cell's name as `cell` and its settings.
        """


def numbers(text: str, name: str, *, least: float, most: float) -> list[float]:
    """Return the values of a setting that has several, such as "0/1/2/4".

    Raises:
        SettingError: One is no number, or beyond the limits.
    """
    found = []
    for value in text.split("/"):
        try:
            number = float(value)
        except ValueError:
            number = nan
        if not least <= number <= most:
            raise SettingError(f"{name} must be numbers in {least:g}..{most:g} with / between; got '{value[:80]}'.")
        found.append(number)
    return list(dict.fromkeys(found))


def whole_numbers(text: str, name: str, *, least: int, most: int) -> list[int]:
    """Return the values of a setting that has several whole ones; see `numbers`."""
    found = numbers(text, name, least=least, most=most)
    if odd := [number for number in found if number != int(number)]:
        raise SettingError(f"{name} must be whole numbers; got {odd[0]:g}.")
    return [int(number) for number in found]
