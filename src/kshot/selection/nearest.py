"""What the selectors that search for each query share: the text they compare and the order they return."""

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.types import Example


def text_of(example: Example) -> str:
    """Return the input, then the context: an encoder that cuts long texts keeps the input."""
    return f"{example.input}\n{example.context}" if example.context else example.input


def query_text(query: Example | None, selector: str) -> str:
    """Return the query's text.

    Raises:
        UserError: There is no query, which the selector needs.
    """
    if query is None:
        raise UserError(
            f"'{selector}' chooses for one query at a time, there is no choice for the whole task; "
            "use a task-level selector such as 'random'."
        )
    return text_of(query)


def nearest_last(scores: NDArray[np.floating], k: int) -> list[int]:
    """Return the `k` highest of `scores` [n_pool], the highest last; among equals the first in the pool wins."""
    order = np.argsort(-scores, kind="stable")
    return order[:k][::-1].tolist()
