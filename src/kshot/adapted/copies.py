"""An adapted model as it is pickled and copied: the files of its folder, and its language model."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from kshot.adapted.folder import load, save
from kshot.adapted.model import AdaptedModel
from kshot.core.models import LanguageModel


def as_files(adapted: AdaptedModel) -> dict[str, bytes]:
    """Return what `save` writes: each file's content by its place in the folder."""
    with TemporaryDirectory(prefix="kshot-") as place:
        folder = Path(place) / "model"
        save(adapted, folder)
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def from_files(files: Mapping[str, bytes], model: LanguageModel | None) -> AdaptedModel:
    """Return the adapted model that files hold, on a language model; None for a classifier."""
    with TemporaryDirectory(prefix="kshot-") as place:
        for name, data in files.items():
            file = Path(place) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return load(place, model=model, allow_code=True)  # a pickle can run anything; a copy came from here
