"""A trained retriever on disk: what sentence-transformers loads, and how it was learnt."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kshot.core.errors import UserError
from kshot.core.json_text import from_json, to_json
from kshot.core.paths import path_of
from kshot.core.schema import shaped
from kshot.core.seeding import digest
from kshot.core.types import Task
from kshot.encoders.encoder import Encoder
from kshot.encoders.encoder_identity import encoder_id
from kshot.retrieval.corpus import Item
from kshot.store.files import write_folder

ABOUT, FORMAT = "retriever.json", 1


class _About(TypedDict):
    """What is read of `retriever.json`; the rest tells people how it was learnt."""

    format: int
    encoder: str
    queries: list[str]


@dataclass(frozen=True)
class SavedRetriever:
    """What stands in a retriever's folder, read without loading it.

    Attributes:
        folder: Where it is.
        encoder: What it was before training, by name.
        weights: What identifies its files.
        queries: The fingerprints of what it has learnt from, as a query or as a document.
    """

    folder: Path
    encoder: str
    weights: str
    queries: frozenset[str]

    def known(self, task: Task) -> frozenset[str]:
        """Return the ids of a task's training examples that it has learnt from."""
        return frozenset(e.id for e in task.train if fingerprint(Item(task, e)) in self.queries)


def fingerprint(query: Item) -> str:
    """Return what tells one query from others, short; the text itself is not kept."""
    return digest(query.query)[:16]


def save_retriever(encoder: Encoder, folder: Path, about: Mapping[str, Any], queries: Iterable[str]) -> None:
    """Write a retriever: safetensors and JSON, whole or not at all.

    Args:
        encoder: The trained encoder.
        folder: Where; what is there is replaced.
        about: How it was learnt, with the name of its `encoder` before training.
        queries: Fingerprints of what it has learnt from, as a query or as a document.
    """
    known = sorted(set(queries))
    text = to_json({"format": FORMAT, **about, "queries": known}, indent=1) + "\n"
    write_folder(folder, {ABOUT: text}, more=encoder.save)


def _last(folder: Path) -> Path:
    """Return the retriever of a run's last iteration; other folders as they are."""
    names = [file.parent.name.removeprefix("iteration-") for file in folder.glob("iteration-*/retriever")]
    numbers = [int(name) for name in names if re.fullmatch("[0-9]+", name)]  # a copy of one's own is none of the run's
    return folder / f"iteration-{max(numbers)}" / "retriever" if numbers else folder


def read_retriever(folder: str | Path) -> SavedRetriever:
    """Look at a retriever that `save_retriever` wrote, or at the last one of a run.

    Raises:
        UserError: There is none, or it is of another version.
    """
    folder = _last(path_of(folder))
    try:
        about = from_json((folder / ABOUT).read_text("utf-8"))
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError
    except (OSError, ValueError):
        raise UserError(
            f"{folder} must be a retriever that kshot trained (`kshot retriever train`); it has no readable {ABOUT} "
            "and model.safetensors."
        ) from None
    if isinstance(about, dict) and about.get("format") != FORMAT:
        raise UserError(f"{folder} must have format {FORMAT}, which this kshot reads; got {about.get('format')}.")
    if isinstance(about, dict):
        about = {key: about[key] for key in _About.__annotations__ if key in about}
    said = shaped(_About, about, folder / ABOUT, "Copy the whole folder, or train it again.")
    return SavedRetriever(folder, said["encoder"], encoder_id(str(folder.resolve())), frozenset(said["queries"]))
