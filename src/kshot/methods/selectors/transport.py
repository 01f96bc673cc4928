"""Optimal transport between two small sets of vectors."""

from math import lcm

import numpy as np
from numpy.typing import NDArray

MOST = 256  # places of an assignment; a linear program beyond


def transport_cost(costs: NDArray[np.floating]) -> float:
    """Return the least mean cost of carrying one set to the other, both with even weights.

    min over T >= 0 of sum_ij T_ij c_ij, with sum_j T_ij = 1 / k and sum_i T_ij = 1 / m.

    Args:
        costs: Of carrying one to the other, `[k, m]`.

    Example:
        >>> transport_cost(np.array([[0.0, 1.0], [1.0, 0.0]])), transport_cost(np.array([[0.0, 1.0]]))
        (0.0, 0.5)
    """
    from scipy.optimize import linear_sum_assignment, linprog

    k, m = costs.shape
    n = lcm(k, m)
    if n <= MOST:  # each is cut into equal pieces, which are assigned whole
        whole = np.repeat(np.repeat(costs, n // k, axis=0), n // m, axis=1)
        return float(whole[linear_sum_assignment(whole)].mean())
    rows, columns = np.kron(np.eye(k), np.ones(m)), np.kron(np.ones(k), np.eye(m))
    sums = np.concatenate([np.full(k, 1 / k), np.full(m, 1 / m)])
    return float(linprog(costs.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=sums, method="highs").fun)
