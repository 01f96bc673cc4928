"""Where the progress of a stream survives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kshot.core.json_text import to_json
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import DivergedError
from kshot.core.seeding import digest
from kshot.core.types import Prediction, Query


class Memory(Protocol):
    """Keeps records: what is put is on disk when `put_record` returns."""

    def get_record(self, key: str) -> dict[str, Any] | None:
        """Return the JSON object under a key; None where there is none that is as it was put."""
        ...

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a JSON object under a key."""
        ...


@dataclass(frozen=True)
class Kept:
    """What is kept of a stream.

    Attributes:
        memory: For predictions.
        folder: For states of training.
        key: Identifies task, models, prompts, stream and seed.
        notes: What methods have noted of their work; they are kept with the predictions that they belong to.
        say: Told of what was kept and cannot be used.
        counted: Keys of the predictions that this run has paid for already: who else takes them pays no more.
    """

    memory: Memory
    folder: Path
    key: str
    notes: list[dict[str, Any]] = field(default_factory=list)
    say: Callable[[str], None] = lambda text: None
    counted: set[str] = field(default_factory=set)

    def once(
        self,
        name: str,
        queries: Sequence[Query],
        ledger: Ledger,
        make: Callable[[], Sequence[Prediction]],
        *,
        asks_model: bool = True,
    ) -> list[Prediction]:
        """Return predictions that are stored under a name; else make and store them, with what methods note.

        Args:
            name: Identifies recipe and queries.
            queries: What is predicted.
            ledger: What the stored ones took is added.
            make: Returns the predictions.
            asks_model: Whether stored ones count as reused requests.
        """
        key = digest(self.key, name)
        if (known := self.known(key, queries)) is not None:
            ledger.add(Cost(reused=len(known) if asks_model else 0, tokens=self.tokens_of(key, known)))
            return known
        n_notes = len(self.notes)
        predictions = list(make())
        self.keep(key, predictions, n_notes)
        return predictions

    def tokens_of(self, key: str, known: Sequence[Prediction]) -> float:
        """Return the tokens that stored predictions took, unless this run has counted them."""
        tokens = 0.0 if key in self.counted else sum(p.tokens + p.fit_tokens for p in known)
        self.counted.add(key)
        return tokens

    def known(self, key: str, queries: Sequence[Query]) -> list[Prediction] | None:
        """Return the predictions of queries under a key, and note what is kept with them; None where there are none.

        Raises:
            DivergedError: That is what is kept.
        """
        record = self.memory.get_record(key)
        if record is None:
            return None
        if "diverged" in record:
            raise DivergedError(record["diverged"])
        found = [as_prediction(row) for row in record["predictions"]]
        if [p.example_id for p in found] != [q.example.id for q in queries]:
            self.say("predictions of other examples were kept; these are predicted again")
            return None
        self.notes.extend(record["notes"])
        return found

    def keep(self, key: str, predictions: Sequence[Prediction], n_notes: int, *, once: bool = False) -> None:
        """Store predictions under a key, with the notes after the first so many.

        Args:
            key: Identifies recipe and queries.
            predictions: Of the queries.
            n_notes: How many notes there were before.
            once: Take away notes that there were before, each but the first: a learner that goes on from a kept state
                prepares some things again, and notes them again.
        """
        if once:
            known = {to_json(note) for note in self.notes[:n_notes]}
            new = {to_json(note): note for note in self.notes[n_notes:]}
            self.notes[n_notes:] = [note for text, note in new.items() if text not in known]
        self.counted.add(key)
        self.memory.put_record(key, {"predictions": [vars(p) for p in predictions], "notes": self.notes[n_notes:]})

    def diverged(self, key: str, error: DivergedError) -> None:
        """Store under a key that training has left the finite numbers."""
        self.memory.put_record(key, {"diverged": str(error)})


def as_prediction(row: dict[str, Any]) -> Prediction:
    """Return a stored prediction; JSON has lists for its tuples."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    values["contexts"] = tuple(map(tuple, row["contexts"]))
    return Prediction(**values)
