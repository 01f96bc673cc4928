"""Test, then train: every example is predicted from the examples before it in a shuffled stream, and nothing else.

Source: Dawid (1984), "Present position and potential developments: the prequential approach",
https://doi.org/10.2307/2981683; for choosing recipes: Bornschein et al. (2025), https://arxiv.org/abs/2512.19879.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

from kshot.core.seeding import digest, generator
from kshot.core.types import Example, Prediction, Query, Task
from kshot.evaluation.statistics import interval
from kshot.tasks.validate import without_duplicates

SUMMARY = (
    "metric",
    "metric_low",
    "metric_high",
    "bits_per_example",
    "n",
    "fit_seconds",
    "query_tokens",
    "query_ms",
)


@dataclass(frozen=True)
class Stream:
    """The order in which examples are met.

    Attributes:
        examples: In the order of the stream.
        rest: Training examples beyond the limit, in the order of the stream: they are learnt, not predicted.
        removed: Ids of rows left out because an earlier row has the same input and context.
    """

    examples: tuple[Example, ...]
    rest: tuple[Example, ...]
    removed: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Identify the ids in their order."""
        return digest([e.id for e in self.examples])

    def queries(self) -> list[Query]:
        """Return each example as a query that sees the examples before it."""
        return [Query(e, self.examples[:i]) for i, e in enumerate(self.examples)]


def make_stream(task: Task, *, limit: int, seed: int) -> Stream:
    """Remove repeated rows, shuffle, and take the first `limit` for the stream."""
    kept, removed = without_duplicates(task.train)
    order = generator(seed, "stream").permutation(len(kept))
    shuffled = tuple(kept[i] for i in order)
    return Stream(shuffled[:limit], shuffled[limit:], removed)


def sample_row(recipe: str, position: int, example: Example, prediction: Prediction) -> dict[str, Any]:
    """Return what is kept of one prediction: the prediction, and how it compares with the label."""
    probability = prediction.probs[prediction.candidates.index(example.output)]
    return {
        "recipe": recipe,
        "position": position,
        "gold": example.output,
        "score": float(prediction.answer == example.output),
        "bits": -log2(probability),
        **asdict(prediction),
    }


def summarise(task: Task, rows: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """Return metric with its 95 % interval, bits per example, number, and cost per query of a recipe's rows.

    Tokens and milliseconds are means over the rows: early in a stream prompts are shorter than those of the model
    that is handed over.
    """
    gold, answers = [r["gold"] for r in rows], [r["answer"] for r in rows]
    labels = task.labels or tuple(sorted({*gold, *answers}))
    value, low, high = interval(
        task.metrics[0],
        gold,
        answers,
        labels=labels,
        positive_label=task.positive_label,
        rng=generator(seed, "bootstrap"),
    )
    n = len(rows)
    bits = sum(r["bits"] for r in rows) / n
    fit_seconds = sum(r["fit_seconds"] for r in rows)
    tokens = sum(r["prompt_tokens"] for r in rows) / n
    query_ms = 1000 * sum(r["seconds"] for r in rows) / n
    return dict(zip(SUMMARY, (value, low, high, bits, n, fit_seconds, tokens, query_ms), strict=True))
