"""From which confidence on answers are given, so that a wanted share of those that are given is right.

A recipe's past answers are tried from the most confident down. Of the first m, c may be wrong where a binomial test at
level 5 % then says that more than the wanted share is right; the first m that do not pass end the search.

How much is answered at the same promise depends on where the search looks. Each c is tried at the smallest m that
allows it, and nowhere between: there a test uses nearly all of its level, and one early mistake does not end the
search. The first m is about a fifth of the answers: with fewer, a single mistake among the most confident would end it.
After the last m that has passed, answers go on until there is one mistake more. The first test is exact. The others
count half of the probability of the very number of mistakes (mid-p), as exact tests of whole numbers are too strict on
the average.

The promise is for one recipe. Of several that are alike the one that was lucky is chosen, so the level is then divided
by the square root of their number: where recipes agree in many answers that makes up for it (docs/abstain.md).

Source: Angelopoulos et al. (2021), "Learn then Test", https://arxiv.org/abs/2110.01052, fixed sequence testing; Geifman
and El-Yaniv (2017), "Selective classification for deep neural networks", https://arxiv.org/abs/1705.08500; Lancaster
(1961), https://doi.org/10.1080/01621459.1961.10482105, for mid-p. Differs: where thresholds are tried, as above; the
level for chosen recipes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik  # of the binomial; scipy.stats takes half a second to import

from kshot.core.errors import UserError
from kshot.core.types import FloatArray, Prediction, Task
from kshot.measures.intervals import wilson

UNSURE = "unsure"
LEVEL = 0.05  # the probability that less than the wanted share is right
# Chosen by `kshot bench abstain`: of 0.1, 0.2, 0.3 and 0.4 it has most answered on the average
FIRST_SHARE = 0.2
DIGITS = 6  # of confidences that count as different: rounding of sums must not part what is equal


def confidence(answer: str, candidates: Sequence[str], probs: Sequence[float]) -> float:
    """Return the probability of an answer."""
    return float(probs[candidates.index(answer)])


@dataclass(frozen=True)
class Abstention:
    """When a model answers.

    Attributes:
        precision: The share of its answers that has to be right.
        threshold: The least confidence with which it answers; None if nothing can be promised, so that it never does.
    """

    precision: float
    threshold: float | None

    def is_unsure(self, prediction: Prediction) -> bool:
        """Return whether a prediction is no answer."""
        sure = confidence(str(prediction.answer), prediction.candidates, prediction.probs)
        return self.threshold is None or sure < self.threshold

    def measured(self, right: Sequence[bool], n: int) -> dict[str, Any]:
        """Return how it did on test rows.

        Args:
            right: Of each row that was answered, whether it was right.
            n: How many rows were asked.

        Returns:
            `wanted`, the precision that was promised; `n_answered`; `share` that was answered and `precision`, each as
            (value, low, high) at 95 %; the value is None of no row.
        """
        n_answered, n_right = len(right), sum(right)
        return {
            "wanted": self.precision,
            "n_answered": n_answered,
            "share": (n_answered / n, *wilson(n_answered, n)),
            "precision": (n_right / n_answered if n_answered else None, *wilson(n_right, n_answered)),
        }


@dataclass(frozen=True)
class PastAnswers:
    """How sure a recipe was of answers to examples that it did not know, and which of them were right.

    Attributes:
        confidences: The probability of each answer.
        right: Whether it was right.
        n_alike: How many recipes might as well have been chosen by these examples, with itself.
    """

    confidences: tuple[float, ...]
    right: tuple[bool, ...]
    n_alike: int = 1

    @classmethod
    def of(cls, answers: Iterable[tuple[float, bool]], n_alike: int = 1) -> "PastAnswers":
        """Return those of pairs of a confidence and whether the answer was right."""
        pairs = [(round(sure, DIGITS), right) for sure, right in answers]
        return cls(tuple(sure for sure, _ in pairs), tuple(right for _, right in pairs), n_alike)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "PastAnswers":
        """Return what was saved as its fields."""
        return cls(tuple(saved["confidences"]), tuple(saved["right"]), saved["n_alike"])

    @property
    def level(self) -> float:
        """The level of each test."""
        return LEVEL / sqrt(self.n_alike)

    @cached_property
    def _ends(self) -> tuple[tuple[float, int, int], ...]:
        """Of each confidence, the highest first: itself, how many answers have it or more, and how many are wrong."""
        order = np.argsort(-np.array(self.confidences), kind="stable")
        sure, wrong = np.array(self.confidences)[order], np.cumsum(~np.array(self.right, dtype=bool)[order])
        last = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1) if len(sure) else []
        return tuple((float(sure[i]), int(i) + 1, int(wrong[i])) for i in last)

    def abstention(self, precision: float, *, first_share: float = FIRST_SHARE) -> Abstention:
        """Return from which confidence on at least a share `precision` of answers is right, with a probability of 95 %.

        That is over the draw of the examples, if inputs are drawn as they were, and if more confident answers are
        right more often. Where inputs have the same confidence all of them are answered, or none.

        Args:
            precision: The share that has to be right.
            first_share: Of how many of these answers the search begins with, at most, if so few can pass.
        """
        ends, passed = self._ends, -1
        for i, allowed in self._steps(precision, first_share):
            if ends[i][2] > allowed:
                break
            passed = allowed
        if passed < 0:
            return Abstention(precision, None)
        n = sum(wrong <= passed for _, _, wrong in ends)
        return Abstention(precision, (ends[n - 1][0] + ends[n][0]) / 2 if n < len(ends) else 0.0)

    def _steps(self, precision: float, first_share: float = FIRST_SHARE) -> list[tuple[int, int]]:
        """Return where the search looks: places in `_ends`, each with how many may be wrong there."""
        counts = [n for _, n, _ in self._ends]
        exact, halved = (most_wrong(counts, precision, self.level, at_limit=weight) for weight in (1.0, 0.5))
        rises = [i for i, (before, now) in enumerate(pairwise([-1, *exact])) if now > before]
        if not rises:
            return []
        first = max((i for i in rises if counts[i] <= first_share * counts[-1]), default=rises[0])
        steps = [(first, exact[first])]
        for i in range(first + 1, len(counts)):
            if halved[i] > steps[-1][1]:
                steps.append((i, halved[i]))
        return steps

    def why_nothing(self, precision: float) -> str:
        """Return, in words, which of the past answers keep a precision from being promised of any."""
        (at, allowed), *_ = self._steps(precision)
        _, n, wrong = self._ends[at]
        most = f"at most {allowed}" if allowed else "none"
        return (
            f"each example was answered before its label was learnt, {sum(self.right)} of {len(self.right)} rightly; "
            f"of the {n} answers that it was surest of, {most} may be wrong, and {wrong} "
            f"{'was' if wrong == 1 else 'were'}"
        )

    def answered(self, abstention: Abstention) -> tuple[int, int]:
        """Return how many of these would have been answered, and how many of those are right."""
        if abstention.threshold is None:
            return 0, 0
        kept = [right for sure, right in zip(self.confidences, self.right, strict=True) if sure >= abstention.threshold]
        return len(kept), sum(kept)

    def share(self, abstention: Abstention) -> tuple[float, float, float]:
        """Return the share of queries that is answered, with its 95 % interval."""
        n, n_answered = len(self.right), self.answered(abstention)[0]
        return n_answered / max(1, n), *wilson(n_answered, n)

    def best(self, below: float) -> Abstention | None:
        """Return the most that can be promised below a precision, in whole percents; None if nothing."""
        tried = (self.abstention(percent / 100) for percent in range(ceil(100 * below) - 1, 0, -1))
        return next((found for found in tried if found.threshold is not None), None)


def most_wrong(n: Sequence[int], precision: float, level: float, *, at_limit: float = 1.0) -> list[int]:
    """Return how many of n answers may be wrong; -1 if n is too small even for none.

    It is the largest c with P(X < c) + w P(X = c) <= level, X binomial of n with the probability 1 - precision.

    Args:
        n: Numbers of answers.
        precision: The share that has to be right.
        level: The level of the test.
        at_limit: The weight w: 1 for the exact test, 0.5 for mid-p.
    """
    counts, wrong = np.asarray(n, dtype=int), 1 - precision

    def up_to(c: NDArray[np.int64]) -> FloatArray:  # P(X <= c)
        return np.where(c < 0, 0.0, bdtr(np.maximum(c, 0), counts, wrong))

    found = np.nan_to_num(np.ceil(bdtrik(level, counts, wrong))).astype(int)
    found += up_to(found) < level
    found -= up_to(found - 1) >= level
    tail = at_limit * up_to(found) + (1 - at_limit) * up_to(found - 1)
    return (found - (tail > level)).tolist()


def least_answers(precision: float, level: float = LEVEL) -> int:
    """Return how many answers there must be, all of them right, before a precision can be promised."""
    return ceil(log(level) / log(precision))


def check_can_abstain(task: Task) -> None:
    """Refuse a task whose answers have no confidence, or could not be told from "unsure".

    Raises:
        UserError: It is such a task.
    """
    if task.is_open:
        raise UserError(
            f"--abstain needs a task with labels or choices, whose answers have probabilities; '{task.name}' is of the "
            f"kind {task.kind}, whose answers are written. Leave --abstain out."
        )
    if task.is_multi_label:
        raise UserError(
            f"--abstain needs answers with one probability each; '{task.name}' is multi_label, where each label has "
            "its own. Leave --abstain out, and look at the probabilities of `predict --json`."
        )
    if UNSURE in task.labels:
        raise UserError(
            f"--abstain says '{UNSURE}' where it gives no answer; '{task.name}' has a label '{UNSURE}'. Rename the "
            "label, or leave --abstain out."
        )


def check_enough(n: int, precision: float, level: float = LEVEL) -> None:
    """Refuse a precision that no record of so few answers can promise.

    Raises:
        UserError: They are too few, even if all of them are right.
    """
    least = least_answers(precision, level)
    if n < least:
        most = int(100 * level ** (1 / max(1, n))) / 100
        raise UserError(
            f"--abstain {precision:g} needs at least {least} examples, each answered before it is learnt, all of them "
            f"rightly; got {n}, too few to promise anything above {most:g}. Give more examples, or a lower --abstain."
        )


def promised(past: PastAnswers, precision: float) -> Abstention:
    """Return when to answer so that a precision is kept.

    Raises:
        UserError: It cannot be promised.
    """
    check_enough(len(past.right), precision, past.level)
    found = past.abstention(precision)
    if found.threshold is None:
        best = past.best(precision)
        most = f"--abstain {best.precision:g}, which can" if best else "more examples, as nothing lower can either"
        raise UserError(f"--abstain {precision:g} cannot be promised: {past.why_nothing(precision)}. Give {most}.")
    return found
