"""What methods have in common that embed texts: the setting `encoder`, and that it stays the same one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kshot.core.errors import UserError
from kshot.core.fields import place
from kshot.core.part import Part
from kshot.encoders.encoder import missing_package
from kshot.encoders.encoder_identity import encoder_id


@dataclass(frozen=True)
class Embeds(Part):
    """A method that embeds texts.

    Attributes:
        encoder: "minilm", or a sentence-transformers hub id or folder.
    """

    encoder: str = place("minilm")

    @property
    def missing_package(self) -> str | None:
        """The package of the encoder, if it is missing."""
        return missing_package(self.encoder)

    def record(self) -> dict[str, Any]:
        """Return what it is; the encoder counts by its files."""
        return {**super().record(), "weights": encoder_id(self.encoder)}

    def check_record(self, record: Mapping[str, Any]) -> None:
        """Raise UserError where the encoder is another one than that of a record."""
        before, now = record.get("weights"), encoder_id(self.encoder)
        if before and now and before != now:
            raise UserError(
                f"The encoder '{self.encoder}' must be the one with which the model was adapted; its files have "
                "changed since. Put them back, or adapt again."
            )
