"""Item response: how able takers of a test are, and how hard and how telling its items, by who passed what.

    P(taker i passes item j) = sigmoid(a_j theta_i + d_j),    theta ~ N(0, 1)

a_j is the item's discrimination, -d_j / a_j its difficulty: the ability at which half pass. Items are fitted by
expectation maximisation over a grid of abilities, with priors a ~ N(1, 1) and d ~ N(0, 2^2), so that an item that all
pass, or none, has finite numbers, and few takers say little.

Source: Birnbaum (1968), the two-parameter logistic model; Bock and Aitkin (1981), https://doi.org/10.1007/BF02293801,
for the fit. Differs: normal priors; a discrimination may be below 0, as that of an item with a wrong key.
"""

from dataclasses import dataclass

import numpy as np

from kshot.core.types import FloatArray

ABILITIES = np.linspace(-4, 4, 33)
ROUNDS, STEPS = 60, 4
ENOUGH = 1e-4  # of a parameter's change in a round
A_MEAN, A_SD, D_SD = 1.0, 1.0, 2.0


@dataclass(frozen=True)
class ItemResponse:
    """Takers and items on one scale.

    Attributes:
        ability: Of each taker, its posterior mean `[n_takers]`.
        discrimination: Of each item `[n_items]`; below 0, the abler fail it.
        intercept: Of each item `[n_items]`: the log-odds with which a taker of ability 0 passes it.
    """

    ability: FloatArray
    discrimination: FloatArray
    intercept: FloatArray

    @property
    def difficulty(self) -> FloatArray:
        """The ability at which half pass each item `[n_items]`; it says little of one that hardly discriminates."""
        a = self.discrimination
        return -self.intercept / np.where(np.abs(a) < 1e-6, 1e-6, a)

    @property
    def information(self) -> FloatArray:
        """What each item tells of an average taker `[n_items]`, a^2 p (1 - p); negative where the abler fail it."""
        weights = _prior()
        p = _passed(self.discrimination, self.intercept)  # [n_items, n_abilities]
        return np.sign(self.discrimination) * self.discrimination**2 * ((p * (1 - p)) @ weights)


def item_response(passed: FloatArray) -> ItemResponse:
    """Fit takers and items.

    Args:
        passed: 1 where a taker passed an item, 0 where it failed, NaN where it did not take it, `[n_takers, n_items]`.
    """
    was_taken = ~np.isnan(passed)
    right, wrong = (np.where(was_taken, x, 0.0) for x in (passed, 1 - passed))
    n_items = passed.shape[1]
    a, d = np.full(n_items, A_MEAN), np.zeros(n_items)
    posterior = _posterior(a, d, right, wrong)
    for _ in range(ROUNDS):
        n_right, n_wrong = right.T @ posterior, wrong.T @ posterior  # [n_items, n_abilities]
        before = np.array([a, d])
        for _ in range(STEPS):
            a, d = _newton(a, d, n_right, n_wrong)
        posterior = _posterior(a, d, right, wrong)
        if np.abs(np.array([a, d]) - before).max(initial=0.0) < ENOUGH:
            break
    return ItemResponse(posterior @ ABILITIES, a, d)


def _prior() -> FloatArray:
    weights = np.exp(-(ABILITIES**2) / 2)
    return weights / weights.sum()


def _passed(a: FloatArray, d: FloatArray) -> FloatArray:
    return 1 / (1 + np.exp(-(a[:, None] * ABILITIES + d[:, None])))


def _posterior(a: FloatArray, d: FloatArray, right: FloatArray, wrong: FloatArray) -> FloatArray:
    """Return how probable each ability is of each taker, `[n_takers, n_abilities]`."""
    logits = a[:, None] * ABILITIES + d[:, None]
    logs = np.log(_prior()) - right @ np.logaddexp(0, -logits) - wrong @ np.logaddexp(0, logits)
    return np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))


def _newton(a: FloatArray, d: FloatArray, right: FloatArray, wrong: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Take one step of Newton's method for all items: what is made large is concave, as the priors are normal."""
    p = _passed(a, d)
    gap, curve = right - (right + wrong) * p, (right + wrong) * p * (1 - p)
    slope_a = gap @ ABILITIES - (a - A_MEAN) / A_SD**2
    slope_d = gap.sum(axis=1) - d / D_SD**2
    aa, ad, dd = curve @ ABILITIES**2 + A_SD**-2, curve @ ABILITIES, curve.sum(axis=1) + D_SD**-2
    determinant = aa * dd - ad**2
    step_a, step_d = (dd * slope_a - ad * slope_d) / determinant, (aa * slope_d - ad * slope_a) / determinant
    return a + np.clip(step_a, -1, 1), d + np.clip(step_d, -1, 1)
