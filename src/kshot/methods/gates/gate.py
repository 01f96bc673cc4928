"""What a gate is: it says how doubtful an answer is, and from where on another recipe is asked."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kshot.core.part import Part
from kshot.core.types import Prediction, Task


class First(Protocol):
    """What a gate may ask about the recipe whose answers it judges."""

    @property
    def name(self) -> str:
        """As it is written."""
        ...

    @property
    def contexts(self) -> int:
        """How many sets of demonstrations it averages over."""
        ...

    @property
    def considers(self) -> bool:
        """Whether something is found out about each question before it is asked."""
        ...


@dataclass(frozen=True)
class Gate(Part):
    """Says which answers are doubtful, from the predictions alone.

    Attributes:
        reads_text: In open tasks it needs the text that was written, for each question.
        reads_sureness: There it needs how sure the model is of that text, too (`Prediction.sureness`).
    """

    reads_text: ClassVar[bool] = False
    reads_sureness: ClassVar[bool] = False

    def check(self, first: First) -> None:
        """Raise a UserError where the first recipe does not say what the gate reads."""

    @abstractmethod
    def doubt(self, task: Task, said: Prediction) -> float:
        """Return how doubtful an answer is, 0 or more."""

    @abstractmethod
    def most(self, past: Sequence[float]) -> float | None:
        """Return the doubt above which another recipe is asked; None asks none.

        Args:
            past: The doubts of the answers so far, in their order.
        """
