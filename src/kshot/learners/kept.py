"""Where the progress of a stream survives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kshot.core.ledger import Cost, Ledger
from kshot.core.seeding import digest
from kshot.core.types import Prediction


class Memory(Protocol):
    """Keeps predictions: what is put is on disk when `put_predictions` returns."""

    def get_predictions(self, learner: str) -> list[dict[str, Any]]:
        """Return the rows under a key, or none."""
        ...

    def put_predictions(self, learner: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows under a key."""
        ...


@dataclass(frozen=True)
class Kept:
    """What is kept of a stream.

    Attributes:
        memory: For predictions.
        folder: For states of training.
        key: Identifies task, models, prompts, stream and seed.
        notes: What methods have noted of their work; they are kept with the predictions that they belong to.
    """

    memory: Memory
    folder: Path
    key: str
    notes: list[dict[str, Any]] = field(default_factory=list)

    def once(
        self, name: str, ledger: Ledger, make: Callable[[], Sequence[Prediction]], *, asks_model: bool = True
    ) -> list[Prediction]:
        """Return predictions that are stored under a name; else make and store them, with what methods note.

        Args:
            name: Identifies recipe and queries.
            ledger: What the stored ones took is added.
            make: Returns the predictions.
            asks_model: Whether stored ones count as reused requests.
        """
        key = digest(self.key, name)
        stored = self.memory.get_predictions(key)
        if stored:
            predictions = [as_prediction(row) for row in stored]
            tokens = sum(p.tokens + p.fit_tokens for p in predictions)
            ledger.add(Cost(reused=len(stored) if asks_model else 0, tokens=tokens))
            self.notes.extend(self.memory.get_predictions(digest(key, "selections")))
            return predictions
        n_notes = len(self.notes)
        predictions = list(make())
        self.memory.put_predictions(digest(key, "selections"), self.notes[n_notes:])
        self.memory.put_predictions(key, [vars(p) for p in predictions])
        return predictions


def as_prediction(row: dict[str, Any]) -> Prediction:
    """Return a stored prediction; JSON has lists for its tuples."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    return Prediction(**values)
