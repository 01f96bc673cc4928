"""A small network that learns how good arms are, and how sure it can be of it."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WIDTH, N_HIDDEN = 100, 3
LR, MEMORY, SQUARED_MEMORY, EPSILON = 1e-3, 0.9, 0.999, 1e-8


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
        self._shapes = [shape for a, b in zip(sizes, sizes[1:], strict=False) for shape in ((a, b), (b,))]
        drawn = [self.rng.uniform(-1, 1, shape) / sqrt(sizes[i // 2]) for i, shape in enumerate(self._shapes)]
        self._start = np.concatenate([values.ravel() for values in drawn]).astype(np.float32)
        self._weights = self._start
        self._seen = np.full_like(self._start, self.decay)  # U

    def fit(self, arms: Floats, rewards: Floats, *, steps: int) -> None:
        """Learn the rewards of arms, `[n, dim]` and `[n]`, by steps of Adam on all of them, from the start."""
        flat, gradient = self._start.copy(), np.empty_like(self._start)
        first, second = np.zeros_like(flat), np.zeros_like(flat)
        weights, parts = self._parts(flat), self._parts(gradient)
        n = np.float32(len(arms))
        for step in range(1, steps + 1):
            layers = _forward(weights, arms)
            deltas = _backward(weights, layers, (2 / n) * (layers[-1] - rewards[:, None]))
            for i, (a, d) in enumerate(zip(layers, deltas, strict=False)):
                np.matmul(a.T, d, out=parts[2 * i])
                np.sum(d, axis=0, out=parts[2 * i + 1])
            gradient += np.float32(self.decay / n) * flat
            first += np.float32(1 - MEMORY) * (gradient - first)
            second += np.float32(1 - SQUARED_MEMORY) * (gradient * gradient - second)
            rate = np.float32(LR * sqrt(1 - SQUARED_MEMORY**step) / (1 - MEMORY**step))
            flat -= rate * first / (np.sqrt(second) + np.float32(EPSILON))
        self._weights = flat

    def bounds(self, arms: Floats) -> Floats:
        """Return f + sqrt(sum over the weights of lambda nu g^2 / U) for each arm, `[n]`, with g the gradient of f."""
        layers, deltas = self._gradients(arms)
        unknown = self._parts(np.float32(1) / self._seen)
        total = np.zeros(len(arms), dtype=np.float32)
        for i, (a, d) in enumerate(zip(layers, deltas, strict=False)):  # the gradient is the outer product of both
            total += ((d * d) * ((a * a) @ unknown[2 * i] + unknown[2 * i + 1])).sum(axis=1)
        return layers[-1][:, 0] + np.sqrt(np.float32(self.decay * self.exploration) * total)

    def tried(self, arm: Floats) -> None:
        """Be surer of whatever is like this arm, `[dim]`: U grows by its squared gradient."""
        layers, deltas = self._gradients(arm[None])
        seen = self._parts(self._seen)
        for i, (a, d) in enumerate(zip(layers, deltas, strict=False)):
            seen[2 * i] += (a * a).T @ (d * d)
            seen[2 * i + 1] += (d * d)[0]

    def _gradients(self, arms: Floats) -> tuple[list[Floats], list[Floats]]:
        weights = self._parts(self._weights)
        layers = _forward(weights, arms)
        return layers, _backward(weights, layers, np.ones((len(arms), 1), dtype=np.float32))

    def _parts(self, flat: Floats) -> list[Floats]:
        """Return views of each layer's weights `[n_in, n_out]` and biases `[n_out]`, in turn."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), self._shapes, strict=True)]


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
