"""Numbers that go on: windows of a series said as whole numbers of a fixed width, past and future as demonstrations.

An analogue of a system for time series with layers of its own; here a language model reads and writes the numbers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import takewhile
from math import ceil, floor, isnan, log
from typing import Self

import numpy as np

from kshot.core.fields import setting, state
from kshot.core.number_lists import broken_series, future_of, log_chance_of_places, number_list, past_of
from kshot.core.script import Script, UsualWording
from kshot.core.types import Example, Question, Task
from kshot.methods.contracts import Composer
from kshot.taskmodel.taskmodel import TaskModel

_GAP = "?"
_AS_IT_IS = "="  # before an answer that is said in its own words, where these would be heard as whole numbers


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

    def code(self, value: float | Decimal | Fraction) -> int:
        """Return the nearest whole number; beyond the digits' it is longer, or below 0."""
        return round((Fraction(value) - Fraction(self.low)) / Fraction(self.step)) + 10**self.digits // 4

    def n_said(self, code: int, places: int) -> int:
        """Return how many numbers with so many places after the point a whole number stands for."""
        middle = Fraction(self.low) + (code - 10**self.digits // 4) * Fraction(self.step)
        half, unit = Fraction(self.step) / 2, Fraction(1, 10**places)
        first, last = ceil((middle - half) / unit), floor((middle + half) / unit)
        first += self.code(first * unit) != code  # what is half-way goes to the even one
        last -= self.code(last * unit) != code
        return last - first + 1

    def value(self, code: int) -> float:
        """Return the number that is said by a whole number: at most half a step from any that is said by it."""
        return self.low + (code - 10**self.digits // 4) * self.step


@dataclass(frozen=True)
class Series(Composer):
    """Say a series of numbers as whole numbers of `digits` digits, and what follows it in the same scale.

    Of a window with the values x, whole numbers are said: round((x - min) / step) + 10^digits / 4, with a step of
    max(2 (max - min) / 10^digits, the last place of the values), so that there is room above and below for what
    follows. A demonstration says past and future in the scale of its own past, a question its past, and what the model
    writes is brought back to the units of the task: at most half a step is lost. A gap is a "?". An answer
    with a number that is too far away, of more than 2 `digits` digits, is said as it is, after a "=" where that could
    be taken for whole numbers.

    Bits are those of the task's own numbers, so that the probabilities of all that are said in the same words sum to 1
    at most: for each number its places after the point are paid for, by the share that they have in outputs so far (its
    prior is the window's own, and 2^-(1 + places)), and log2(how many numbers with so many places the whole number
    stands for).

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
    _places: tuple[tuple[int, int], ...] = state(())  # and how many numbers of outputs so far have them
    _length: int = state(0)  # of every output so far
    _form: tuple[bool, str] | None = state()  # brackets and what stands between numbers, of an output
    _digits_join: bool = state(default=False)

    rewrites = True
    version = 2

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
            _places=tuple(Counter(places for some in futures for places in some.places).items()),
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
        """Return an answer in whole numbers; as it is, if they are not those of numbers near enough to be heard."""
        if codes := self._codes(answer, question):
            return self._joined([self._digits(code) for code in codes])
        is_like_codes = answer.lstrip().startswith(_AS_IT_IS) or self._written_codes(answer)
        return _AS_IT_IS + answer if is_like_codes else answer

    def heard(self, task: Task, text: str, question: Question) -> str:
        """Return what was written in the units of the question; as it is, if it does not begin with whole numbers."""
        if text.lstrip().startswith(_AS_IT_IS):
            return text.lstrip().removeprefix(_AS_IT_IS)
        codes = self._written_codes(text)[: self._length or None]
        past, scale = past_of(question.input, question.id), self._scale(question)
        places = max(past.decimals, self._decimals)
        sound = takewhile(self._is_heard, codes)
        values = [f"{scale.value(int(code)):.{places}f}" for code in sound]
        brackets, between = self._form or (past.brackets and self._length != 1, past.between)
        if not values:
            return text
        return f"[{between.join(values)}]" if brackets else between.join(values)

    def unsaid(self, task: Task, answer: str, question: Question) -> float:
        """Return the nats that say how many places each number has, and which of those that are said alike it is."""
        codes, numbers, scale = self._codes(answer, question), number_list(answer), self._scale(question)
        past, seen = past_of(question.input, question.id), Counter(dict(self._places))
        if not codes or not numbers:
            return 0.0
        return sum(
            log(scale.n_said(code, places)) - log_chance_of_places(places, past, seen)
            for code, places in zip(codes, numbers.places, strict=True)
        )

    def _codes(self, answer: str, question: Question) -> list[int]:
        """Return the whole numbers that an answer is said in; none where it is said as it is."""
        numbers, scale = number_list(answer), self._scale(question)
        if numbers is None or len(numbers.exact) < len(numbers.values):
            return []
        codes = [scale.code(number) for number in numbers.exact]
        return codes if all(self._is_heard(str(code)) for code in codes) else []

    def _is_heard(self, code: str) -> bool:
        return len(code.lstrip("-")) <= 2 * self.digits  # who writes longer ones babbles

    def _written_codes(self, text: str) -> list[str]:
        """Return the whole numbers, as they are written, that a text begins with; none where it goes on within one."""
        found = re.match(r"\s*(- ?)?\d[\d ]*(\s*,\s*(- ?)?\d[\d ]*)*" if self._comma else r"\s*-?\d+(\s+-?\d+)*", text)
        if not found or re.match(r"\.?\w", text[len(found.group().rstrip()) :]):  # as "e400" and ".5" would be
            return []
        parts = found.group().split(",") if self._comma else found.group().split()
        written = ["".join(part.split()) for part in parts]
        return ["-" * code.startswith("-") + (code.lstrip("-0") or "0") for code in written]

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
        return self._joined([_GAP if isnan(v) else self._digits(scale.code(v)) for v in values])

    def _digits(self, code: int) -> str:
        return f"{code:0{self.digits}d}"

    def _joined(self, codes: Sequence[str]) -> str:
        if self._is_spaced:
            return " , ".join(" ".join(code) for code in codes)
        return ("," if self.between == "comma" else " ").join(codes)
