"""Numbers that go on: windows of a series said as whole numbers of a fixed width, past and future as demonstrations.

An analogue of a system for time series with layers of its own; here a language model reads and writes the numbers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import isnan, log
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.number_lists import broken_series, future_of, number_list, past_of
from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer
from kshot.taskmodel.taskmodel import TaskModel

_GAP = "?"


@dataclass(frozen=True)
class Scale:
    """An affine map from numbers to whole numbers: `low` is a quarter of what the digits can say, a step is one more.

    Example:
        >>> scale = Scale(low=10.0, step=0.5, digits=2)
        >>> scale.code(12.1), scale.value(29)
        (29, 12.0)
    """

    low: float
    step: float
    digits: int

    @classmethod
    def of(cls, values: Sequence[float], digits: int, *, decimals: int) -> "Scale":
        """Return the scale on which values span half of what the digits can say, or the steps are their last place.

        Values that are all alike span as much as they are away from 0, and zeros 1.
        """
        low, high = min(values), max(values)
        span = (high - low) or abs(low) or 1.0
        return cls(low, max(span / (10**digits // 2), 10.0**-decimals), digits)

    def code(self, value: float) -> int:
        """Return the nearest whole number; beyond the digits' it is longer, or below 0."""
        return round((value - self.low) / self.step) + 10**self.digits // 4

    def value(self, code: int) -> float:
        """Return the number that is said by a whole number: at most half a step from any that is said by it."""
        return self.low + (code - 10**self.digits // 4) * self.step


@dataclass(frozen=True)
class Series(Composer):
    """Say a series of numbers as whole numbers of `digits` digits, and what follows it in the same scale.

    Of a window with the values x, whole numbers are said: round((x - min) / step) + 10^digits / 4, with a step of
    max(2 (max - min) / 10^digits, the last place of the values), so that there is room above and below for what
    follows. A demonstration says past and future in the scale of its own past, a question its past, and what the model
    writes is brought back to the units of the task: at most half a step is lost. Bits are those of the task's own
    numbers: log2(step / last place) more for each, where a whole number stands for several of them. A gap is a "?".

    Inputs are lists of numbers ("1, 2.5, null" or JSON), outputs as well, or one number; where something else is
    written the row is refused. Tasks with such rows are open ones, such as "generation", and `smape_score` is the
    metric for them.

    Attributes:
        digits: Of the whole numbers.
        scale: "window": each past has its own, "task": all have that of the examples that are known.
        between: What stands between two numbers.
        spaced: Whether digits are a token each only if a space stands between them: "auto" asks the model's tokenizer.

    Source: Hu et al. (2025), Context-Alignment: Activating and Enhancing LLM Capabilities in Time Series,
    https://arxiv.org/abs/2501.03747. Numbers as digits: Gruver et al. (2023), Large Language Models Are Zero-Shot Time
    Series Forecasters, section 3, https://arxiv.org/abs/2310.07820.
    Differs: an analogue in text alone, as there are no graph layers and no embeddings of patches: the structure is past
    and future as question and answer. The scale is the minimum and the span of a window, not quantiles.

    Example:
        >>> task = Task("t", "generation", ())
        >>> past = Question("10, 20, 30", "q")
        >>> Series(digits=2).compose(task, (), past).pieces[0].text, Series(digits=2).said(task, "40, 50", past)
        ('25,35,45', '55,65')
        >>> Series(digits=2).heard(task, "55,65", past)
        '40, 50'
    """

    digits: int = setting(3, least=2, most=9)
    scale: str = setting("window", choices=("window", "task"))
    between: str = setting("comma", choices=("comma", "space"))
    spaced: str = setting("auto", choices=("auto", "yes", "no"))
    _range: tuple[float, float] | None = state()
    _decimals: int = state(0)
    _length: int = state(0)  # of every output so far
    _form: tuple[bool, str] | None = state()  # brackets and what stands between numbers, of an output
    _digits_join: bool = state(default=False)

    rewrites = True

    def suits(self, task: Task) -> bool:
        """Return whether answers are written."""
        return task.is_open

    def obstacle(self, task: Task) -> str | None:
        """Return which row is no series."""
        return broken_series(task)

    @property
    def learns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] - by its settings
        """Whether the scale depends on examples."""
        return self.scale == "task"

    def fit(self, pool: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Self:
        """Return it with the scale of the task, how its outputs are written, and whether digits are tokens."""
        joined = model.model.count_tokens("0123456789") < 10
        if not pool:
            return replace(self, _digits_join=joined)
        futures = [future_of(e.output, e.id) for e in pool]
        values = [v for e in pool for v in past_of(e.input, e.id).known] + [v for some in futures for v in some.values]
        lengths = {len(some.values) for some in futures}
        return replace(
            self,
            _range=(min(values), max(values)),
            _decimals=max(some.decimals for some in futures),
            _length=lengths.pop() if len(lengths) == 1 else 0,
            _form=next(((some.brackets, some.between) for some in futures if len(some.values) > 1), None),
            _digits_join=joined,
        )

    def compose(self, task: Task, shown: Sequence[Example], question: Question) -> Script:
        """Return what is said, in whole numbers."""
        coded = [replace(e, input=self._coded(e.question), output=self.said(task, e.output, e.question)) for e in shown]
        script = UsualWording().compose(task, coded, replace(question, input=self._coded(question)))
        return replace(script, given="Past", wanted="Future")

    def said(self, task: Task, answer: str, question: Question) -> str:
        """Return an answer in whole numbers; as it is, if it has something else than numbers."""
        numbers = number_list(answer)
        return self._text(numbers.values, question) if numbers and numbers.known else answer

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return what was written in the units of the question; as it is, if it does not begin with whole numbers."""
        found = re.match(r"\s*(- ?)?\d[\d ]*(\s*,\s*(- ?)?\d[\d ]*)*" if self._comma else r"\s*-?\d+(\s+-?\d+)*", text)
        if not found:
            return text
        parts = found.group().split(",") if self._comma else found.group().split()
        codes = [int("".join(part.split())) for part in parts][: self._length or None]
        past, scale = past_of(question.input, question.id), self._scale(question)
        places = max(past.decimals, self._decimals)
        sound = takewhile(lambda code: abs(code) < 100**self.digits, codes)  # who writes longer ones babbles
        values = [f"{scale.value(code):.{places}f}" for code in sound]
        brackets, between = self._form or (past.brackets and self._length != 1, past.between)
        if not values:
            return text
        return f"[{between.join(values)}]" if brackets else between.join(values)

    def unsaid(self, task: Task, answer: str, question: Question) -> float:
        """Return the nats that say which of the numbers of a step it is."""
        numbers, scale = number_list(answer), self._scale(question)
        places = max(past_of(question.input, question.id).decimals, self._decimals)
        return len(numbers.known) * log(max(1.0, scale.step * 10.0**places)) if numbers else 0.0

    @property
    def _comma(self) -> bool:
        return self.between == "comma" or self._is_spaced

    @property
    def _is_spaced(self) -> bool:
        return self._digits_join if self.spaced == "auto" else self.spaced == "yes"

    def _scale(self, question: Question) -> Scale:
        past = past_of(question.input, question.id)
        values = self._range if self.scale == "task" and self._range else past.known
        return Scale.of(values, self.digits, decimals=max(past.decimals, self._decimals))

    def _coded(self, question: Question) -> str:
        return self._text(past_of(question.input, question.id).values, question)

    def _text(self, values: Sequence[float], question: Question) -> str:
        scale = self._scale(question)
        codes = [_GAP if isnan(v) else f"{scale.code(v):0{self.digits}d}" for v in values]
        if self._is_spaced:
            codes = [" ".join(code) for code in codes]
            return " , ".join(codes)
        return ("," if self.between == "comma" else " ").join(codes)
