"""Task embeddings: the mean outputs of attention heads where the answers of few-shot prompts begin."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kshot.core.types import Example
from kshot.taskmodel.taskmodel import TaskModel


def few_shot_prompts(
    examples: Sequence[Example], *, n_prompts: int, shots: int, rng: np.random.Generator
) -> tuple[list[list[Example]], list[Example]]:
    """Draw demonstrations and a query for each of `n_prompts` prompts; with few examples, as many shots as there are.

    Returns:
        The demonstrations of each prompt, and its query.
    """
    shown, queries = [], []
    for _ in range(n_prompts):
        drawn = [examples[i] for i in rng.permutation(len(examples))[: shots + 1]]
        shown.append(drawn[:-1])
        queries.append(drawn[-1])
    return shown, queries


def task_embedding(
    examples: Sequence[Example], *, n_prompts: int, shots: int, model: TaskModel, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the mean output of every head at the last token of few-shot prompts, `[n_layers, n_heads, head_dim]`."""
    shown, queries = few_shot_prompts(examples, n_prompts=n_prompts, shots=shots, rng=rng)
    return model.prompts_at_end(shown, queries, "heads").mean(axis=0)
