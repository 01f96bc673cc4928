"""A trained retriever on disk: what sentence-transformers loads, and how it was learnt."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError
from kshot.models.embedding import Encoder
from kshot.runs.record import write_folder

ABOUT, FORMAT = "retriever.json", 1


@dataclass(frozen=True)
class SavedRetriever:
    """What stands in a retriever's folder, read without loading it.

    Attributes:
        folder: Where it is.
        encoder: What it was before training, by name.
        weights: The sha256 of its weights.
    """

    folder: Path
    encoder: str
    weights: str


def save_retriever(encoder: Encoder, folder: Path, about: Mapping[str, Any]) -> None:
    """Write a retriever: safetensors and JSON, whole or not at all.

    Args:
        encoder: The trained encoder.
        folder: Where; what is there is replaced.
        about: How it was learnt, with the name of its `encoder` before training.
    """
    text = json.dumps({"format": FORMAT, **about}, ensure_ascii=False, indent=1) + "\n"
    write_folder(folder, {ABOUT: text}, more=encoder.save)


def _last(folder: Path) -> Path:
    """Return the retriever of a run's last iteration; other folders as they are."""
    numbers = [int(f.parent.name.rpartition("-")[2]) for f in folder.glob("iteration-*/retriever")]
    return folder / f"iteration-{max(numbers)}" / "retriever" if numbers else folder


def read_retriever(folder: str | Path) -> SavedRetriever:
    """Look at a retriever that `save_retriever` wrote, or at the last one of a run.

    Raises:
        UserError: There is none, or it is of another version.
    """
    folder = _last(Path(folder))
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        with (folder / "model.safetensors").open("rb") as weights:
            identity = hashlib.file_digest(weights, "sha256").hexdigest()
    except (OSError, ValueError):
        raise UserError(
            f"{folder} must be a retriever that kshot trained (`kshot retriever train`); it has no readable {ABOUT} "
            "and model.safetensors."
        ) from None
    if about.get("format") != FORMAT:
        raise UserError(f"{folder} must have format {FORMAT}, which this kshot reads; got {about.get('format')}.")
    return SavedRetriever(folder, about["encoder"], identity)
