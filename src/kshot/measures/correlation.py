"""How two numbers of the same units go together."""

import numpy as np
from scipy.stats import rankdata

from kshot.core.types import FloatArray


def pearson(rows: FloatArray) -> float:
    """Return the correlation of the two columns, -1 to 1; NaN where one of them does not vary.

    Args:
        rows: `[n, 2]`.
    """
    centred = rows - rows.mean(axis=0)
    a, b = centred.T
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size > 1e-12 else float("nan")


def spearman(rows: FloatArray) -> float:
    """Return the correlation of the ranks of the two columns, equal values sharing theirs; arguments as `pearson`.

    Source: Spearman (1904), https://doi.org/10.2307/1412159. Differs: nothing.
    """
    return pearson(np.column_stack([rankdata(column) for column in rows.T]))
