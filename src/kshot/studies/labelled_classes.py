"""Sequences of items with labels from many classes: what is bursty, how rare classes are, and what can be memorised.

A class is a point, and an item the point with noise: (mean + noise * eta) / sqrt(1 + noise^2), with mean and eta normal
of variance 1 / dim. A sequence has items, each followed by the vector of its label, and at the end an item whose label
is asked for. Class k has label k modulo the number of labels, for ever, so labels can be learnt in the weights; where
the item's class is also in the sequence, they can be read from there.

Source: Reddy (2023), https://arxiv.org/abs/2312.03002; Chan et al. (2022), https://arxiv.org/abs/2205.05055.
Differs: in a bursty sequence the classes differ from each other; new classes of a sequence have labels that differ, as
far as there are so many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_ROUNDS = 16


@dataclass(frozen=True)
class World:
    """Classes with their labels.

    Attributes:
        means: `[n_classes, dim]`.
        signs: The vector of each label, `[n_labels, dim]`.
        shares: How often each class comes, `[n_classes]`, which sum to 1.
        noise: Within a class, as a multiple of what is between classes.
    """

    means: Floats
    signs: Floats
    shares: NDArray[np.float64]
    noise: float

    @property
    def labels(self) -> Ints:
        """The label of each class, `[n_classes]`."""
        return np.arange(len(self.means)) % len(self.signs)

    def drawn(self, shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
        """Return classes by their shares."""
        found = np.searchsorted(np.cumsum(self.shares), rng.random(shape), side="right")
        return np.minimum(found, len(self.means) - 1)  # where the shares sum to a little less than 1

    def distinct(self, n: int, m: int, rng: np.random.Generator) -> Ints:
        """Return `m` classes that differ for each of `n` sequences, `[n, m]`, drawn in turn by their shares.

        What was drawn before is drawn again. Where that does not end, as with few classes that are nearly all, the next
        is that with the smallest of exponential times whose rates are the shares: such draws are the same.
        """
        found = np.empty((n, m), np.int64)
        for j in range(m):
            found[:, j], twice = self.drawn((n,), rng), np.arange(n)
            for _ in range(_ROUNDS):
                twice = np.flatnonzero((found[:, :j] == found[:, j : j + 1]).any(1))
                if not len(twice):
                    break
                found[twice, j] = self.drawn((len(twice),), rng)
            else:
                times = rng.standard_exponential((len(twice), len(self.means))) / self.shares
                np.put_along_axis(times, found[twice, :j], np.inf, 1)
                found[twice, j] = times.argmin(1)
        return found


@dataclass(frozen=True)
class Drawn:
    """Sequences.

    Attributes:
        tokens: Items and labels by turns, and the item that is asked about: `[n, 2 * items + 1, dim]`.
        target: Its label, `[n]`.
        labels: Of the items, `[n, items]`.
        same: Whether an item is of the class that is asked about, `[n, items]`.
        classes: Of the items and at the end of what is asked about, `[n, items + 1]`; of new classes: -1 - place.
    """

    tokens: Floats
    target: Ints
    labels: Ints
    same: NDArray[np.bool_]
    classes: Ints


def world(classes: int, labels: int, dim: int, *, noise: float, exponent: float, rng: np.random.Generator) -> World:
    """Make classes.

    Args:
        classes: How many.
        labels: How many.
        dim: Numbers in a vector.
        noise: Within a class.
        exponent: The share of the k-th class is proportional to k^-exponent; 0: all are equally frequent.
        rng: For the vectors.
    """
    shares = np.arange(1, classes + 1, dtype=np.float64) ** -exponent
    means, signs = (_normal((n, dim), rng) for n in (classes, labels))
    return World(means, signs, shares / shares.sum(), noise)


def draw(
    known: World,
    n: int,
    *,
    sizes: Sequence[int],
    bursty: float,
    rng: np.random.Generator,
    new: float = 0.0,
    shift: int = 0,
    absent: bool = False,
) -> Drawn:
    """Draw sequences.

    Args:
        known: The classes.
        n: How many sequences.
        sizes: How often each class of a bursty sequence comes in it, as (4, 4); the first one is asked about.
        bursty: The share of bursty sequences; in the others every class is drawn for itself, by the shares.
        rng: For every choice.
        new: The share of bursty sequences whose classes, and their labels, were made for them alone.
        shift: What is added to each label, so that only the sequence tells it.
        absent: In sequences that are not bursty the class that is asked about is not among the items.
    """
    items, m = sum(sizes), len(sizes)
    is_bursty = rng.random(n) < bursty
    is_new = is_bursty & (rng.random(n) < new)
    classes = np.empty((n, items + 1), np.int64)
    places = rng.permuted(np.tile(np.repeat(np.arange(m), sizes), (n, 1)), axis=1)  # [n, items]
    places = np.concatenate([places, np.zeros((n, 1), np.int64)], axis=1)
    if is_bursty.any():
        chosen = known.distinct(int(is_bursty.sum()), m, rng)
        classes[is_bursty] = np.take_along_axis(chosen, places[is_bursty], 1)
    classes[~is_bursty] = _apart(known, int((~is_bursty).sum()), items, rng, absent=absent)
    means, labels = known.means[classes], (known.labels[classes] + shift) % len(known.signs)
    if is_new.any():
        k, at = int(is_new.sum()), places[is_new]
        made = _normal((k, m, known.means.shape[1]), rng)
        order = np.argsort(rng.random((k, len(known.signs))), axis=1)  # of labels, one order a sequence
        means[is_new] = np.take_along_axis(made, at[:, :, None], 1)
        labels[is_new] = np.take_along_axis(order, at % len(known.signs), 1)
        classes[is_new] = -1 - at
    noise = np.float32(known.noise)
    seen = (means + noise * _normal(means.shape, rng)) / np.float32(sqrt(1 + known.noise**2))
    tokens = np.empty((n, 2 * items + 1, means.shape[2]), np.float32)
    tokens[:, ::2], tokens[:, 1::2] = seen, known.signs[labels[:, :-1]]
    return Drawn(tokens, labels[:, -1], labels[:, :-1], classes[:, :-1] == classes[:, -1:], classes)


def placed(tokens: Floats, places: int, rng: np.random.Generator) -> Floats:
    """Return sequences whose vectors say where they stand, as one-hot places that begin anywhere.

    Args:
        tokens: `[n, length, dim]`.
        places: How many there are, `length` or more.
        rng: For where each sequence begins.

    Returns:
        `[n, length, dim + places]`.
    """
    n, length, dim = tokens.shape
    x = np.zeros((n, length, dim + places), np.float32)
    x[:, :, :dim] = tokens
    begin = rng.integers(places - length + 1, size=n)
    x[np.arange(n)[:, None], np.arange(length), dim + begin[:, None] + np.arange(length)] = 1
    return x


def _apart(known: World, n: int, items: int, rng: np.random.Generator, *, absent: bool) -> Ints:
    """Return classes that are drawn each for itself, `[n, items + 1]`."""
    classes = known.drawn((n, items + 1), rng)
    while absent and (twice := classes[:, :-1] == classes[:, -1:]).any():
        classes[:, :-1][twice] = known.drawn((int(twice.sum()),), rng)
    return classes


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    return rng.standard_normal(shape, np.float32) / np.float32(sqrt(shape[-1]))
