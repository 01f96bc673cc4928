"""Methods whose `fit` remembers something that is saved as JSON beside the model."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.part import Part
from kshot.core.schema import shaped


@dataclass(frozen=True)
class Remembering(Part):
    """A method that remembers in fields that start with an underscore.

    Attributes:
        remembered_in: The file's name.
        remembered: The shape of what the file holds, a `TypedDict`; None takes whatever has its keys.
    """

    remembered_in: ClassVar[str]
    remembered: ClassVar[type | None] = None

    def save(self, folder: Path) -> None:
        """Write what `fit` remembers, in fields that start with an underscore, as JSON.

        Raises:
            UserError: It is no JSON; such a method has `save` and `rebuilt` of its own.
        """
        states = [f for f in fields(self) if f.name.startswith("_")]
        kept = {f.name: getattr(self, f.name) for f in states}
        if all(getattr(self, f.name) is f.default for f in states):
            return
        try:
            same = _tuples(from_json(text := to_json(kept))) == kept
        except (TypeError, ValueError):
            text, same = "", False
        if not same:
            raise UserError(
                f"What {type(self).__name__} remembers must be JSON, with tuples for lists, to be saved; got {kept!r}. "
                "Give it methods save and rebuilt of its own."
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.remembered_in).write_text(text, "utf-8")

    @classmethod
    def rebuilt(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """Return it with recorded settings and what `save` has written.

        Raises:
            UserError: There is something else in its file.
        """
        file, known = folder / cls.remembered_in, {f.name for f in fields(cls) if f.name.startswith("_")}
        if not (known and file.exists()):
            return cls(**settings)
        try:
            kept = from_json(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} must hold what {cls.__name__} remembers; {error}. Adapt again.") from None
        if not isinstance(kept, dict) or kept.keys() != known:
            raise UserError(
                f"{file} must hold what {cls.__name__} remembers, {', '.join(sorted(known))}; it holds something else. "
                "Adapt again."
            )
        if cls.remembered is not None:
            shaped(cls.remembered, kept, file, "Adapt again.")
        return cls(**settings, **_tuples(kept))


def _tuples(value: Any) -> Any:
    """Return what was read from JSON with tuples for its lists."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
