"""Inputs and outputs in turn, as small networks on vectors read them."""

import numpy as np
import torch
from torch import Tensor

from kshot.core.types import FloatArray


def interleaved(x: FloatArray, y: FloatArray) -> Tensor:
    """Return sequences x_1, y_1, x_2, y_2, … as vectors, an output in a place apart from the inputs.

    Args:
        x: `[n, length, dim]`.
        y: `[n, length]`.

    Returns:
        `[n, 2 * length, dim + 1]`, float32.
    """
    n, length, dim = x.shape
    tokens = np.zeros((n, 2 * length, dim + 1), np.float32)
    tokens[:, 0::2, :dim] = x
    tokens[:, 1::2, dim] = y
    return torch.from_numpy(tokens)
