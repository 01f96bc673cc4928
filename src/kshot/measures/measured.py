"""A number measured on units, with what each unit gave: its interval, and its difference to another system's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kshot.core.types import FloatArray
from kshot.measures.comparison import score_difference
from kshot.measures.intervals import bootstrap, wilson


def mean(rows: FloatArray) -> float:
    """Return the mean of what is known; NaN without any."""
    known = rows[~np.isnan(rows)]
    return float(known.mean()) if known.size else float("nan")


def amount(rows: FloatArray) -> float:
    """Return the mean of what is no share, such as bits: its interval is the bootstrap's where all are 0 or 1, too."""
    return mean(rows)


@dataclass(frozen=True, eq=False)
class Measured:
    """A statistic of what units gave, such as the share of rows that are right.

    Attributes:
        units: What each value belongs to, such as a row's id, each once; equal units of two systems are paired.
        values: What each gave `[n_units]`, or several numbers of each `[n_units, k]`; NaN where it gives none.
        statistic: Of such rows; the mean if not given.
    """

    units: Sequence[str]
    values: Sequence[Any] | FloatArray
    statistic: Callable[[FloatArray], float] = mean

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        assert len(self.units) == len(self.values) == len(set(self.units)), "one value a unit, each unit once"

    @property
    def rows(self) -> FloatArray:
        """The values as floats."""
        return np.asarray(self.values, dtype=np.float64)

    @property
    def value(self) -> float:
        """The statistic of all units; NaN where there is no number."""
        return self.statistic(self.rows) if len(self.units) else float("nan")

    @property
    def _is_share(self) -> bool:
        return self.statistic is mean and self.rows.ndim == 1 and bool(np.isin(self.rows, (0, 1)).all())

    def record(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return value, low, high (95 %) and n, the units that give something, as JSON; None where there is no number.

        Wilson's interval of shares, else the bootstrap over units; where that has no width, as where all units give 0,
        Wilson's of those that give something stands for it, but for an `amount`.
        """
        low, high = self._interval(rng)
        return {"value": _known(self.value), "low": _known(low), "high": _known(high), "n": self._n_known}

    @property
    def _n_known(self) -> int:
        rows = self.rows if self.rows.ndim > 1 else self.rows[:, None]
        return int((~np.isnan(rows)).any(axis=1).sum())

    def _interval(self, rng: np.random.Generator) -> tuple[float, float]:
        n = len(self.units)
        if self._is_share:
            return wilson(float(self.rows.sum()), n)
        if n < 2:
            return float("nan"), float("nan")
        low, high = _of_resamples(lambda at: self.statistic(self.rows[at]), n, rng)
        if low == high and 0 <= low <= 1 and self.statistic is not amount:  # that no unit differs is no certainty
            around = wilson(low * self._n_known, self._n_known)
            low, high = min(low, around[0]), max(high, around[1])
        return low, high

    def against(self, other: "Measured", rng: np.random.Generator) -> dict[str, Any]:
        """Return this minus another system's on the units that both have, paired, with its 95 % interval and n.

        Shares by `score_difference`, else by the bootstrap over units, drawn together; where that has no width, as
        where two systems have the same scores, that of `score_difference` stands for it.
        """
        place = {unit: i for i, unit in enumerate(other.units)}
        pairs = [(i, place[unit]) for i, unit in enumerate(self.units) if unit in place]
        if len(pairs) < 2:
            return {"value": None, "low": None, "high": None, "n": len(pairs)}
        ours, theirs = self.rows[[i for i, _ in pairs]], other.rows[[i for _, i in pairs]]
        if self._is_share and other._is_share:
            found = score_difference(list(ours), list(theirs))
            value, low, high = found.mean, found.low, found.high
        else:
            value = self.statistic(ours) - other.statistic(theirs)
            low, high = _of_resamples(
                lambda at: self.statistic(ours[at]) - other.statistic(theirs[at]), len(pairs), rng
            )
            are_scores = self.statistic is mean and all(((x >= 0) & (x <= 1)).all() for x in (ours, theirs))
            if high - low < 1e-9 and are_scores and ours.ndim == 1:  # that all differ as much is no certainty
                around = score_difference(list(ours), list(theirs))
                low, high = min(low, around.low), max(high, around.high)
        return {"value": _known(value), "low": _known(low), "high": _known(high), "n": len(pairs)}


class Gain(Measured):
    """By how much each unit's score in one way is above that in another, from -1 to 1; the mean.

    Its interval is that of `score_difference`, which has a width where no unit differs, too.
    """

    @property
    def _is_share(self) -> bool:
        return False

    def _interval(self, rng: np.random.Generator) -> tuple[float, float]:
        n = len(self.units)
        found = score_difference(list(self.rows), [0.0] * n)
        return (found.low, found.high) if n else (float("nan"), float("nan"))


class Shift(Gain):
    """By how much each unit's share in one way is above that in another, from -1 to 1; the mean.

    A unit's share is a mean of its own, so the interval is the bootstrap's; where no unit differs from the others, and
    it has no width, that of a `Gain`.
    """

    def _interval(self, rng: np.random.Generator) -> tuple[float, float]:
        if len(self.units) < 2:
            return float("nan"), float("nan")
        low, high = _of_resamples(lambda at: self.statistic(self.rows[at]), len(self.units), rng)
        return super()._interval(rng) if low == high else (low, high)


def _of_resamples(value: Callable[[Any], float], n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the interval of a statistic that has no value in some resamples, from the others."""
    found: list[float] = []

    def kept(at: Any) -> float:
        found.append(value(at))
        return 0.0

    bootstrap(kept, n, rng=rng)
    known = np.array(found)[~np.isnan(found)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def told(
    found: Mapping[str, Any], other: Mapping[str, Any] | None = None, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Return a report as JSON: each `Measured` with its interval, and with `difference` where another has it too."""
    told_: dict[str, Any] = {}
    for key, value in found.items():
        theirs = (other or {}).get(key)
        if isinstance(value, Mapping):
            told_[key] = told(value, theirs if isinstance(theirs, Mapping) else None, rng=rng)
        elif isinstance(value, Measured):
            told_[key] = value.record(rng)
            if isinstance(theirs, Measured):
                told_[key] |= {"against": theirs.record(rng)["value"], "difference": value.against(theirs, rng)}
        else:
            told_[key] = value
    return told_
