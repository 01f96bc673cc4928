"""A method with its settings: what every method of every room is, and how it is written down."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from kshot.core.fields import Checked, setting_names
from kshot.core.models import Capability
from kshot.core.own_code import code_of
from kshot.core.plugins import origin_of
from kshot.core.types import Task


@dataclass(frozen=True)
class Part(Checked, ABC):
    """One method with its settings: a frozen dataclass whose public fields are the settings.

    Fields that start with an underscore hold what `fit` remembers (`state`).

    Attributes:
        version: Raised when the method's results change: old predictions are not used again.
        least: The fewest examples it can be fitted on.
        needs: What the model that it asks must be able to do.
        changes_model: Whether weights or activations are changed.
        uses_contexts: It is about how a model uses the context of a row, and does nothing without one.
        uses_unlabelled: It learns from the task's unlabelled inputs too, so that what it does depends on them.
        multi_label: It can be used where an output is a set of labels (`kshot.core.label_sets`).
        absent: Settings that others of its kind have and it cannot have, with the reason,
            as sentences without the last stop.
    """

    version: ClassVar[int] = 1
    least: ClassVar[int] = 0
    needs: ClassVar[frozenset[Capability]] = frozenset()
    changes_model: ClassVar[bool] = False
    uses_contexts: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = False
    absent: ClassVar[Mapping[str, str]] = {}
    multi_label: ClassVar[bool] = False

    def suits(self, task: Task) -> bool:
        """Return whether it can be used on a task of this kind."""
        return True

    def missing_field(self, task: Task) -> str | None:
        """Return what the task's examples must have for it and none has, such as "explanation"; None: nothing."""
        return "context" if self.uses_contexts and not any(e.context for e in task.train) else None

    def caution(self, task: Task) -> str | None:
        """Return what a user should know of the task's examples before it is used on them; None: nothing."""
        return None

    def obstacle(self, task: Task) -> str | None:
        """Return in words why it cannot be used on the task's examples; None: it can."""
        missing = self.missing_field(task)
        return f"its examples must have {missing}, and none has" if missing else None

    @property
    def missing_package(self) -> str | None:
        """A package that has to be installed before it can be used."""
        return None

    @property
    def named_models(self) -> Mapping[str, Sequence[str]]:
        """The names of further language models that it asks, by the settings that name them."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return what it is, as JSON: equal records give equal results on equal examples."""
        values = {name: getattr(self, name) for name in setting_names(type(self))}
        settings = {name: value.record() if isinstance(value, Part) else value for name, value in values.items()}
        return {**origin_of(type(self)).record(), "version": self.version, "settings": settings}

    @property
    def own_code(self) -> tuple[str, ...]:
        """What identifies the code of methods that do not come with kshot: this one, and those among its settings."""
        values = (getattr(self, name) for name in setting_names(type(self)))
        inner = (code for value in values if isinstance(value, Part) for code in value.own_code)
        code = code_of(type(self))
        return (*((code,) if code else ()), *inner)

    def check_record(self, record: Mapping[str, Any]) -> None:
        """Raise UserError where it is not what was recorded, though name, version and settings are."""

    def save(self, folder: Path) -> None:
        """Write what it has learnt into a folder, which is made if there is something to write."""

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Return it with recorded settings and what `save` has written."""
        return cls(**settings)
