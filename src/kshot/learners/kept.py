"""Where the progress of a stream survives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kshot.core.types import Prediction


class Memory(Protocol):
    """Keeps predictions: what is put is on disk when `put_predictions` returns."""

    def get_predictions(self, learner: str) -> list[dict[str, Any]]:
        """Return the rows under a key, or none."""
        ...

    def put_predictions(self, learner: str, rows: Sequence[dict[str, Any]]) -> None:
        """Store rows under a key."""
        ...


@dataclass(frozen=True)
class Keep:
    """Where the progress of a stream survives.

    Attributes:
        memory: For predictions.
        folder: For states of training.
        key: Identifies task, model, prompts, stream and seed.
    """

    memory: Memory
    folder: Path
    key: str


def as_prediction(row: dict[str, Any]) -> Prediction:
    """Return a stored prediction; JSON has lists for its tuples."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    return Prediction(**values)
