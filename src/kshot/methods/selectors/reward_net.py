"""A small network that learns how good arms are, and how sure it can be of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WIDTH, N_HIDDEN = 100, 3
LR, BETAS, EPSILON = 1e-3, (0.9, 0.999), 1e-8


@dataclass
class RewardNet:
    """Three hidden layers of 100 ReLUs; every training begins at the same weights.

    Attributes:
        dim: Numbers in an arm's vector.
        rng: Draws the weights it begins at.
        decay: lambda: weights are drawn to 0 by lambda / n, and what is not known counts by it.
        exploration: nu.
    """

    dim: int
    rng: np.random.Generator
    decay: float = 0.1
    exploration: float = 0.01

    def __post_init__(self):
        sizes = [self.dim, *[WIDTH] * N_HIDDEN, 1]
        self._start: list[Floats] = []
        for n_in, n_out in zip(sizes, sizes[1:], strict=False):
            bound = 1 / np.sqrt(n_in)
            self._start += [
                self.rng.uniform(-bound, bound, (n_in, n_out)).astype(np.float32),
                self.rng.uniform(-bound, bound, n_out).astype(np.float32),
            ]
        self._weights = [w.copy() for w in self._start]
        self._seen: list[Floats] = [np.full_like(w, self.decay) for w in self._start]  # U

    def fit(self, arms: Floats, rewards: Floats, *, steps: int) -> None:
        """Learn the rewards of arms, `[n, dim]` and `[n]`, by steps of Adam on all of them, from the start."""
        weights = [w.copy() for w in self._start]
        first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
        n = np.float32(len(arms))
        for step in range(1, steps + 1):
            layers = _forward(weights, arms)
            deltas = _backward(weights, layers, (2 / n) * (layers[-1] - rewards[:, None]))
            gradients = [g for a, d in zip(layers, deltas, strict=False) for g in (a.T @ d, d.sum(axis=0))]
            rate = LR * np.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                g += (self.decay / n) * w
                m += (1 - BETAS[0]) * (g - m)
                v += (1 - BETAS[1]) * (g * g - v)
                w -= np.float32(rate) * m / (np.sqrt(v) + np.float32(EPSILON))
        self._weights = weights

    def bounds(self, arms: Floats) -> Floats:
        """Return f + sqrt(sum over the weights of lambda nu g^2 / U) for each arm, `[n]`, with g the gradient of f."""
        layers, deltas = self._gradients(arms)
        total = np.zeros(len(arms), dtype=np.float32)
        for i, (a, d) in enumerate(zip(layers, deltas, strict=False)):  # the gradient is the outer product of both
            own = (a * a) @ (1 / self._seen[2 * i]) + 1 / self._seen[2 * i + 1]  # [n, n_out]
            total += ((d * d) * own).sum(axis=1)
        return layers[-1][:, 0] + np.sqrt(np.float32(self.decay * self.exploration) * total)

    def tried(self, arm: Floats) -> None:
        """Be surer of whatever is like this arm, `[dim]`: U grows by its squared gradient."""
        layers, deltas = self._gradients(arm[None])
        for i, (a, d) in enumerate(zip(layers, deltas, strict=False)):
            self._seen[2 * i] += (a * a).T @ (d * d)
            self._seen[2 * i + 1] += (d * d)[0]

    def _gradients(self, arms: Floats) -> tuple[list[Floats], list[Floats]]:
        layers = _forward(self._weights, arms)
        return layers, _backward(self._weights, layers, np.ones((len(arms), 1), dtype=np.float32))


def _forward(weights: list[Floats], arms: Floats) -> list[Floats]:
    """Return what goes into each layer, and what comes out of the last one, `[n, 1]`."""
    layers = [arms]
    for i in range(0, len(weights), 2):
        out = layers[-1] @ weights[i] + weights[i + 1]
        layers.append(out if i == len(weights) - 2 else np.maximum(out, 0))
    return layers


def _backward(weights: list[Floats], layers: list[Floats], last: Floats) -> list[Floats]:
    """Return the gradient with respect to what comes out of each layer before its ReLU, given that of the last."""
    deltas = [last]
    for i in range(len(layers) - 2, 0, -1):
        deltas.insert(0, (deltas[0] @ weights[2 * i].T) * (layers[i] > 0))
    return deltas
