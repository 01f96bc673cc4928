"""Families of functions of numbers, and what is best said of one after some noisy points: the posterior mean.

Source: Panwar et al. (2023), In-Context Learning through the Bayesian Prism, https://arxiv.org/abs/2306.04891.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product

import numpy as np

from kshot.core.errors import SettingError
from kshot.core.types import FloatArray

FAR, USED, REACH = 3.0, 2, 5.0
Predictor = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""Inputs before `[batch, n, dim]`, their outputs `[batch, n]` and what is asked `[batch, dim]` -> `[batch]`."""


@dataclass(frozen=True)
class Normal:
    """Weights from a normal distribution, y = w x + noise: the prior of one component.

    Attributes:
        mean: `[d]`.
        variance: Of each weight, `[d]`.
        noise: Deviation of the noise in an output.
    """

    mean: FloatArray
    variance: FloatArray
    noise: float

    def weights(self, n: int, *, rng: np.random.Generator) -> FloatArray:
        """Draw weights, `[n, d]`."""
        return self.mean + np.sqrt(self.variance) * rng.standard_normal((n, len(self.mean)))

    def told(self, x: FloatArray, y: FloatArray, asked: FloatArray) -> FloatArray:
        """Return the posterior mean of w x at what is asked; see `Predictor`."""
        return self.weighed(x, y, asked)[0]

    def weighed(self, x: FloatArray, y: FloatArray, asked: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the posterior mean of w x at what is asked, and the log-density of the points in nats, each `[batch]`.

        The posterior mean of w is m + V X' (X V X' + noise^2)^-1 (y - X m): with m = 0 and V = 1 ridge regression. The
        points are as probable as N(y; X m, X V X' + noise^2) says.
        """
        scaled = x * self.variance  # [batch, n, d]
        covariance = scaled @ x.transpose(0, 2, 1) + self.noise**2 * np.eye(x.shape[1])
        rest = y - x @ self.mean
        solved = np.linalg.solve(covariance, rest[..., None])[..., 0]
        means = asked @ self.mean + np.einsum("bd,bnd,bn->b", asked, scaled, solved)
        log_det = np.linalg.slogdet(covariance)[1]
        return means, -0.5 * ((rest * solved).sum(axis=1) + log_det + x.shape[1] * np.log(2 * np.pi))


@dataclass(frozen=True)
class Mixture:
    """Weights from one of several normal distributions that are equally probable.

    Attributes:
        parts: The components.
    """

    parts: tuple[Normal, ...]

    def weights(self, n: int, *, rng: np.random.Generator) -> FloatArray:
        """Draw weights, `[n, d]`."""
        which = rng.integers(len(self.parts), size=n)
        return np.stack([part.weights(n, rng=rng) for part in self.parts])[which, np.arange(n)]

    def told(self, x: FloatArray, y: FloatArray, asked: FloatArray) -> FloatArray:
        """Return the components' posterior means, weighed by how probable each makes the points."""
        means, logs = map(np.stack, zip(*(part.weighed(x, y, asked) for part in self.parts), strict=True))
        chances = np.exp(logs - logs.max(axis=0))
        return (means * chances).sum(axis=0) / chances.sum(axis=0)


@dataclass(frozen=True)
class Signs:
    """Weights that are 1 or -1, each as probable.

    Attributes:
        d: How many; all 2^d are tried.
        noise: Deviation of the noise in an output.
    """

    d: int
    noise: float

    @property
    def _every(self) -> FloatArray:
        return np.array(list(product((-1.0, 1.0), repeat=self.d)))

    def weights(self, n: int, *, rng: np.random.Generator) -> FloatArray:
        """Draw weights, `[n, d]`."""
        return rng.choice(np.array([-1.0, 1.0]), size=(n, self.d))

    def told(self, x: FloatArray, y: FloatArray, asked: FloatArray) -> FloatArray:
        """Return the posterior mean of w x: all sign vectors weighed by exp(-|y - X w|^2 / (2 noise^2))."""
        logs = -((x @ self._every.T - y[..., None]) ** 2).sum(axis=1) / (2 * self.noise**2)  # [batch, 2^d]
        chances = np.exp(logs - logs.max(axis=1, keepdims=True))
        return (chances * (asked @ self._every.T)).sum(axis=1) / chances.sum(axis=1)


@dataclass(frozen=True)
class Family:
    """A family of functions.

    Attributes:
        dim: Numbers in an input.
        prior: Of the weights of `features`.
        features: Of inputs, `[..., dim]` -> `[..., n_features]`.
        inputs: Draws inputs of a shape.
        others: Simpler predictors beside the best one, by name.
        noise: Deviation of the noise in an output.
    """

    dim: int
    prior: Normal | Mixture | Signs
    features: Callable[[FloatArray], FloatArray]
    inputs: Callable[[np.random.Generator, tuple[int, ...]], FloatArray]
    others: Mapping[str, Normal]
    noise: float

    def draw(self, n: int, length: int, *, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Draw functions, and points of each.

        Returns:
            Inputs `[n, length, dim]`, outputs with noise and without, each `[n, length]`.
        """
        x = self.inputs(rng, (n, length, self.dim))
        clean = np.einsum("nld,nd->nl", self.features(x), self.prior.weights(n, rng=rng))
        return x, clean + self.noise * rng.standard_normal(clean.shape), clean

    def predictors(self) -> dict[str, Predictor]:
        """Return the best predictor, "posterior", and the others."""
        return {name: partial(self._told, prior) for name, prior in {"posterior": self.prior, **self.others}.items()}

    def _told(self, prior: Normal | Mixture | Signs, x: FloatArray, y: FloatArray, asked: FloatArray) -> FloatArray:
        return prior.told(self.features(x), y, self.features(asked))


def _as_it_is(x: FloatArray) -> FloatArray:
    return x


def _normal_inputs(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    return rng.standard_normal(shape)


def _dense(d: int, noise: float) -> Family:
    return Family(d, Normal(np.zeros(d), np.ones(d), noise), _as_it_is, _normal_inputs, {}, noise)


def _sparse(d: int, noise: float) -> Family:
    masks = [np.isin(np.arange(d), some).astype(float) for some in combinations(range(d), USED)]
    prior = Mixture(tuple(Normal(np.zeros(d), mask, noise) for mask in masks))
    ridge = Normal(np.zeros(d), np.full(d, USED / d), noise)
    return Family(d, prior, _as_it_is, _normal_inputs, {"ridge": ridge}, noise)


def _sign(d: int, noise: float) -> Family:
    return Family(
        d, Signs(d, noise), _as_it_is, _normal_inputs, {"ridge": Normal(np.zeros(d), np.ones(d), noise)}, noise
    )


def _mixture(d: int, noise: float) -> Family:
    centre = FAR * np.eye(d)[0]
    parts = (Normal(centre, np.ones(d), noise), Normal(-centre, np.ones(d), noise))
    single = {"first component": parts[0], "second component": parts[1]}
    return Family(d, Mixture(parts), _as_it_is, _normal_inputs, single, noise)


def _fourier(d: int, noise: float) -> Family:
    def features(x: FloatArray) -> FloatArray:
        turns = np.arange(1, d + 1) * np.pi / REACH * x
        return np.concatenate([np.ones_like(x), np.cos(turns), np.sin(turns)], axis=-1)

    def inputs(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        return rng.uniform(-REACH, REACH, shape)

    n = 2 * d + 1
    return Family(1, Normal(np.zeros(n), np.ones(n) / n, noise), features, inputs, {}, noise)


_FAMILIES = {"dense": _dense, "sparse": _sparse, "sign": _sign, "mixture": _mixture, "fourier": _fourier}
FAMILIES = tuple(_FAMILIES)


def family(name: str, d: int, noise: float) -> Family:
    """Return a family of functions of d numbers, y = w x + noise, with x from N(0, 1).

    dense: w from N(0, 1); sparse: two weights from N(0, 1), the others 0; sign: w is 1 or -1; mixture: N(c, 1) with c =
    3 or -3 on the first axis, each half the time; fourier: of one number from -5 to 5, a series of d frequencies whose
    coefficients have the variance 1 / (2 d + 1).

    Raises:
        SettingError: There is no such family.
    """
    if name not in _FAMILIES:
        raise SettingError(f"families must be of {', '.join(_FAMILIES)}; got '{name}'.")
    return _FAMILIES[name](d, noise)


def along(x: FloatArray, y: FloatArray, predict: Predictor) -> FloatArray:
    """Return what is said at each point after those before it, `[batch, length]`."""
    return np.stack([predict(x[:, :t], y[:, :t], x[:, t]) for t in range(y.shape[1])], axis=1)
