"""A mixture of recipes, weighed by how they have done so far: weights of recipes are learnt as those of experts are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.optimize import minimize
from typing_extensions import TypedDict

from kshot.core.fields import setting, state
from kshot.core.types import FloatArray, Prediction, Task
from kshot.measures.probabilities import mixed
from kshot.methods.contracts import Answered, Combiner

LEAST_WEIGHT = 0.02  # members with less are left out: they cost tokens and change hardly an answer
STEPS = 100  # of expectation and maximisation


class _Remembered(TypedDict):
    _calibrations: list[dict[str, Any]]
    _weights: list[float]


@dataclass(frozen=True)
class Mix(Combiner):
    """Mix the probabilities of several recipes, weighed by what their answers have cost in bits so far.

    p(y) = sum over the members m of w_m p_m(y), or with `by=log-stack` proportional to the product of the p_m(y)^w_m.
    Each member's probabilities are calibrated first, by its own past. The weights are those of the past alone:

    - share: w_m falls with the bits that m has had, and after each example a share `alpha` of all weight is spread
      evenly, so that the mixture moves on when another member becomes the better one.
    - stack: the weights of which the past has the fewest bits, with `shrink` more rows that speak for equal weights.
    - log-stack: the exponents of which the past has the fewest bits, pulled to 1 / number of members by `shrink`.

    Of an open task the output's probabilities are mixed (log-stack is stack there, as a product of probabilities of
    texts cannot be made to sum to 1), and the text is that of the member with the most weight. Without members it
    mixes the recipes of its run that combine nothing themselves, from what they have predicted there.

    Attributes:
        by: "log-stack", "stack" or "share".
        alpha: Of "share".
        shrink: Of "stack" and "log-stack".
        most: The most members that ask a language model, those with the most weight; classifiers are free.

    Source: fixed share: Herbster and Warmuth (1998), https://doi.org/10.1023/A:1007424614876; switching between
    learning curves: van Erven, Grunwald and de Rooij (2012), https://doi.org/10.1111/j.1467-9868.2011.01025.x;
    stacking: Breiman (1996), https://doi.org/10.1007/BF00117832, and of probabilities Yao et al. (2018),
    https://doi.org/10.1214/17-BA1091.
    Differs: weights are learnt along the stream, each on the predictions before it; few members are kept.
    """

    by: str = setting("log-stack", choices=("share", "stack", "log-stack"))
    alpha: float = setting(0.02, least=0.0, most=1.0)
    shrink: float = setting(3.0, least=0.0, most=1e6)
    most: int = setting(3, least=1, most=100)
    _weights: tuple[float, ...] = state(())

    learns: ClassVar[bool] = True
    weighs: ClassVar[bool] = True
    takes_all: ClassVar[bool] = True
    remembered: ClassVar[type | None] = _Remembered

    def fit(self, task: Task, past: Sequence[Answered]) -> Self:
        """Return the mixture with the weights that suit the past; 0 for members that it does without."""
        if not past:
            return replace(self, _weights=())
        learn, weights = _LEARN[self._by(task)], np.zeros(len(past[0].bits))
        inside = list(range(len(weights)))
        found = learn(self, past, inside)
        asking = [m for m in inside if any(row.said[m].prompt_tokens for row in past)]
        asked = sorted(asking, key=lambda m: -found[m])[: self.most]
        light = [m for m in inside if found[m] < LEAST_WEIGHT * found.sum()]
        inside = [m for m in inside if m in asked or m not in asking]
        inside = [m for m in inside if m not in light] or [int(np.argmax(found))]
        weights[inside] = learn(self, past, inside)
        return replace(self, _weights=tuple(weights.tolist()))

    def _by(self, task: Task) -> str:
        return "stack" if task.is_open and self.by == "log-stack" else self.by

    def kept(self, n: int) -> tuple[Self, tuple[int, ...]]:
        """Return the mixture of its members with weight; before anything is known, of the first ones."""
        inside = tuple(m for m, weight in enumerate(self._weights) if weight > 0) or tuple(range(min(n, self.most)))
        return replace(self, _weights=tuple(self._weights[m] for m in inside if self._weights)), inside

    @property
    def weights(self) -> tuple[float, ...]:
        """Those of the past; of a product they are exponents, whose sum need not be 1."""
        return self._weights

    def holds(self, task: Task, n: int) -> bool:
        """Return whether it has weights for so many members, of which some are more than 0."""
        is_of_all = len(self._weights) == n and min(self._weights) >= 0 and max(self._weights) > 0
        return is_of_all and super().holds(task, n)

    def combine(self, task: Task, members: Sequence[Prediction]) -> Prediction:
        """Return the mixture of the members' predictions of one question."""
        weights = np.array(self._weights or (1 / len(members),) * len(members))
        is_product = self._by(task) == "log-stack" and len(members) > 1
        if not is_product:
            weights = weights / weights.sum()
        heaviest = members[int(np.argmax(weights))]
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)[:, None]
        if task.is_open:  # the probability of a long text can be too small for a number
            logs = np.logaddexp.reduce(log_weights + np.array([p.log_probs for p in members]), axis=0)
            return replace(heaviest, log_probs=tuple(logs.tolist()), probs=tuple(np.exp(logs).tolist()))
        if is_product:
            scores = weights @ np.log([p.probs for p in members])
            probabilities = mixed(np.exp(scores - np.logaddexp.reduce(scores)))
        else:
            probabilities = weights @ np.array([p.probs for p in members])
        answer = heaviest.candidates[int(np.argmax(probabilities))]
        logs = np.log(probabilities)
        return replace(heaviest, log_probs=tuple(logs.tolist()), probs=tuple(probabilities.tolist()), answer=answer)


def _share(mix: Mix, past: Sequence[Answered], inside: Sequence[int]) -> FloatArray:
    """Return the weights after fixed share over the past."""
    logs = np.full(len(inside), -np.log(len(inside)))
    with np.errstate(divide="ignore"):  # alpha may be 0 or 1
        log_rest, log_spread = np.log1p(-mix.alpha), np.log(mix.alpha) - np.log(len(inside))
    for row in past:
        logs = logs - np.log(2) * np.array(row.bits)[inside]
        logs = np.logaddexp(logs - np.logaddexp.reduce(logs) + log_rest, log_spread)
    return np.exp(logs)


def _stack(mix: Mix, past: Sequence[Answered], inside: Sequence[int]) -> FloatArray:
    """Return the weights of the fewest bits, by expectation and maximisation."""
    likelihoods, weights = _likelihoods(past, inside), np.full(len(inside), 1 / len(inside))
    for _ in range(STEPS):
        shares = weights * (likelihoods.T @ (1 / (likelihoods @ weights)))  # of the past, that each member stands for
        weights = (shares + mix.shrink / len(inside)) / (len(past) + mix.shrink)
    return weights


def _likelihoods(past: Sequence[Answered], inside: Sequence[int]) -> FloatArray:
    """Return the probability of each right answer by each member, over that by the best one: `[n, n_members]`."""
    bits = np.array([row.bits for row in past])[:, inside]
    return np.exp2(bits.min(axis=1, keepdims=True) - bits)


def _log_stack(mix: Mix, past: Sequence[Answered], inside: Sequence[int]) -> FloatArray:
    """Return the exponents of the fewest bits: the loss is convex."""
    logs = np.concatenate([row.logs for row in past])[:, inside]  # [n_candidates of all rows, n_members]
    sizes = np.array([len(row.logs) for row in past])
    starts = np.cumsum(sizes) - sizes
    right = starts + np.array([row.said[0].candidates.index(row.example.output) for row in past])
    equal = np.full(len(inside), 1 / len(inside))

    def loss(exponents: FloatArray) -> tuple[float, FloatArray]:
        scores = logs @ exponents
        norms = np.logaddexp.reduceat(scores, starts)
        errors = np.exp(scores - np.repeat(norms, sizes))
        errors[right] -= 1
        away = exponents - equal
        value = norms.sum() - scores[right].sum() + mix.shrink * away @ away
        return float(value), logs.T @ errors + 2 * mix.shrink * away

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(inside))
    return found.x if found.x.any() else equal


_LEARN: Mapping[str, Callable[[Mix, Sequence[Answered], Sequence[int]], FloatArray]] = {
    "share": _share,
    "stack": _stack,
    "log-stack": _log_stack,
}
