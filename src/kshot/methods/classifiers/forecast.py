"""Forecasts without a language model: what a model that reads a series of numbers has to beat."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import expm1, isnan, log
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.number_lists import (
    MOST,
    NumberList,
    broken_series,
    future_of,
    log_chance_of_places,
    log_share,
    past_of,
)
from kshot.core.types import Example, FloatArray, Question, Task
from kshot.methods.contracts import Classifier

METHODS = ("naive", "drift", "seasonal")
_LEAST_LOG = -700.0  # where exp is 0


@dataclass(frozen=True)
class Forecast(Classifier):
    """Say of a series what follows it: its last value, its trend, or its last season.

    After the window x_1 … x_T the number at step h is, by "naive", x_T; by "drift", x_T + h (x_T - x_1) / (T - 1); by
    "seasonal", x at T + 1 + (h - 1) mod m - m, of which the season m, where none is given, is the lag from 1 to T / 2
    with the smallest mean |x_t - x_(t - m)|; of a window shorter than the season the last value goes on. A gap has the
    value before it.

    Bits are those of the numbers as they are written, of which the probabilities sum to 1. An answer has n numbers with
    (those of N so far that had n + 2^-n) / (N + 1). Each number's places after the point have the share that they have
    in outputs so far, with one more that is spread as the window's own, and as 2^-(1 + places); and of the numbers with
    so many places each has the mass of a Laplace distribution around the forecast on what is rounded to it, whose
    scale is the mean error on the past, in units of a window's mean step |x_t - x_(t - 1)|. Rows that are no series of
    numbers are refused.

    Attributes:
        method: "naive", "drift" or "seasonal".
        season: Steps in a season; 0 finds it in each window.

    Source: Hyndman and Athanasopoulos (2021), Forecasting: Principles and Practice, section 5.2,
    https://otexts.com/fpp3/simple-methods.html.
    Differs: the season is found in the window where it is not given; Laplace instead of normal errors, learnt from the
    examples instead of the residuals.
    """

    method: str = setting("naive", choices=METHODS)
    season: int = setting(0, least=0, most=10_000)
    _errors: tuple[float, int] = state((1.0, 1))  # sum in units of windows' steps, and number
    _lengths: tuple[tuple[int, int], ...] = state(())  # and how many outputs so far have them
    _form: NumberList | None = state()
    _decimals: int = state(0)
    _places: tuple[tuple[int, int], ...] = state(())  # and how many numbers so far have them

    writes = True
    version = 2

    def suits(self, task: Task) -> bool:
        """Return whether answers are written."""
        return task.is_open

    def obstacle(self, task: Task) -> str | None:
        """Return which row is no series."""
        return broken_series(task)

    def fit(self, task: Task, examples: Sequence[Example], *, rng: np.random.Generator) -> Self:
        """Learn how long answers are, how they are written, and how far they are from the forecasts."""
        futures = [future_of(e.output, e.id) for e in examples]
        fitted = replace(
            self,
            _lengths=tuple(Counter(len(future.values) for future in futures).items()),
            _form=futures[-1] if futures else None,
            _decimals=max((future.decimals for future in futures), default=0),
            _places=tuple(Counter(places for future in futures for places in future.places).items()),
        )
        total, n = 1.0, 1  # one error of a step before any is known
        for e, future in zip(examples, futures, strict=True):
            points, scale = fitted._points(e.question, len(future.values))
            total += float(np.abs(points - future.values).sum()) / scale
            n += len(future.values)
        return replace(fitted, _errors=(total, n))

    def probabilities(self, questions: Sequence[Question]) -> list[FloatArray]:
        """Return nothing to choose from for each question."""
        return [np.zeros(0) for _ in questions]

    def written(self, question: Question) -> str:
        """Return the forecast, of as many numbers as outputs have most often."""
        n = Counter(dict(self._lengths)).most_common(1)[0][0] if self._lengths else 1
        points, form = self._points(question, n)[0].tolist(), self._form or past_of(question.input, question.id)
        return form.written(points, decimals=self._written_places(question))

    def log_prob(self, question: Question, text: str) -> float:
        """Return the log-probability of numbers as they are written."""
        future, past = future_of(text, question.id), past_of(question.input, question.id)
        n = len(future.values)
        points, scale = self._points(question, n)
        total, count = self._errors
        spread = min(MOST, max(scale * total / count, 10.0 ** -self._written_places(question)))
        found, seen = log_share(n, Counter(dict(self._lengths)), -n * log(2)), Counter(dict(self._places))
        for number, places, point in zip(future.exact, future.places, points.tolist(), strict=True):
            distance = float(abs(Fraction(number) - Fraction(point)))
            found += log_chance_of_places(places, past, seen) + _log_mass(distance, 0.5 * 10.0**-places, spread)
        return found

    def _written_places(self, question: Question) -> int:
        return max(past_of(question.input, question.id).decimals, self._decimals)

    def _points(self, question: Question, n: int) -> tuple[FloatArray, float]:
        """Return the forecasts of `n` steps, and the mean step of the window."""
        past = past_of(question.input, question.id)
        values = _filled(past.values)
        steps = float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0
        points = np.clip(forecast(values, n, self.method, season=self.season), -MOST, MOST)
        return points, steps or max(abs(values[-1]), 10.0**-past.decimals)


def forecast(values: Sequence[float], n: int, method: str, *, season: int = 0) -> FloatArray:
    """Return what follows values without gaps, `[n]`; without a season, or with one value, the last one.

    Example:
        >>> forecast([1, 2, 3], 2, "drift").tolist(), forecast([1, 5, 1, 5, 1], 2, "seasonal").tolist()
        ([4.0, 5.0], [5.0, 1.0])
    """
    x, ahead = np.asarray(values, float), np.arange(1, n + 1)
    if method == "drift" and len(x) > 1:
        return x[-1] + ahead * (x[-1] - x[0]) / (len(x) - 1)
    if method == "seasonal":
        season = season or _season(x)
        if 0 < season <= len(x):
            return x[len(x) - season + (ahead - 1) % season]
    return np.full(n, x[-1])


def _season(x: FloatArray) -> int:
    """Return the lag from 1 to half of them at which values are most alike: at 1, the last one goes on."""
    lags = range(1, len(x) // 2 + 1)
    return min(lags, key=lambda lag: float(np.abs(x[lag:] - x[:-lag]).mean()), default=0)


def _filled(values: Sequence[float]) -> list[float]:
    """Return values with the one before in each gap, and the first known one in those before it."""
    last = next(value for value in values if not isnan(value))
    filled = []
    for value in values:
        last = last if isnan(value) else value
        filled.append(last)
    return filled


def _log_mass(distance: float, half: float, spread: float) -> float:
    """Return the log of a Laplace distribution's mass within `half` of a place at a distance from its middle.

    However far the place is, e^-700 of what is spread evenly over all numbers is left for it.
    """
    if distance < half:
        return log(-0.5 * (expm1(-(half - distance) / spread) + expm1(-(half + distance) / spread)))
    mass = log(0.5) - (distance - half) / spread + log(-expm1(-2 * half / spread))
    return max(mass, _LEAST_LOG + log(half / MOST))
