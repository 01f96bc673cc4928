"""What the selectors that search for each query share: the question they need and the order they return."""

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.types import Question


def question_text(question: Question | None, selector: str) -> str:
    """Return the question's text.

    Raises:
        UserError: There is no question, which the selector needs.
    """
    if question is None:
        raise UserError(
            f"'{selector}' chooses for one query at a time, there is no choice for the whole task; "
            "give an input with --query, or use a task-level selector such as 'random'."
        )
    return question.text


def nearest_last(scores: NDArray[np.floating], k: int) -> list[int]:
    """Return the `k` highest of `scores` [n_pool], the highest last; among equals the pool's first wins."""
    order = np.argsort(-scores, kind="stable")
    return order[:k][::-1].tolist()
