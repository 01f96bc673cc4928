"""What the files of a sentence encoder may name: classes of sentence-transformers and torch, and no pickles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError, in_short
from kshot.core.json_text import from_json

_ACTIVATIONS = ("activation_function", "activation_fn")


def check_encoder_files(folder: Path, name: str) -> None:
    """Refuse an encoder's folder that would have other code run, before anything of it is loaded.

    sentence-transformers imports the classes that `modules.json`, a router's `types`, `tokenizer_class` and activations
    name, and reads pickles where there are no safetensors.

    Args:
        folder: The folder.
        name: What the user called it.

    Raises:
        UserError: It names something else, or can be read in no other way.
    """
    for file in sorted(folder.rglob("*.json")):
        for named, prefix in _named(file):
            if not (isinstance(named, str) and named.startswith(prefix) and _is_class(named)):
                raise UserError(
                    f"{file} must name classes of {prefix.rstrip('.')} alone, as others would be run; got {named!r}. "
                    "Give another encoder."
                )
    for file in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(file.parent.glob("*.safetensors")):
            raise UserError(
                f"The weights of the encoder '{name}' must be safetensors, as loading a pickle can run anything; it "
                f"has {file}. Save it again with SentenceTransformer.save_pretrained, where you trust it."
            )


def _named(file: Path) -> Iterator[tuple[Any, str]]:
    """Return what a file names that is imported, with what it must begin with."""
    try:
        said = from_json(file.read_text("utf-8"))
    except (OSError, ValueError):  # sentence-transformers says so where it needs the file
        return
    if file.name == "modules.json" and isinstance(said, list):
        for module in said:
            yield (module.get("type") if isinstance(module, dict) else module), "sentence_transformers."
    if not isinstance(said, dict):
        return
    if isinstance(types := said.get("types"), dict):
        yield from ((named, "sentence_transformers.") for named in types.values())
    if "." in str(named := said.get("tokenizer_class")):
        yield named, "sentence_transformers."
    more = said.get("sentence_transformers")
    for part in (said, more if isinstance(more, dict) else {}):
        yield from ((part[key], "torch.nn.") for key in _ACTIVATIONS if part.get(key) and "." in str(part[key]))


def _is_class(named: str) -> bool:
    """Return whether a dotted name is a class of the package that it begins with."""
    from sentence_transformers.util import import_from_string

    try:
        found = import_from_string(named)
    except Exception as error:  # whatever importing a name that is none makes of it
        raise UserError(f"'{named}' must be a class of an encoder; {in_short(error)}. Give another encoder.") from error
    package = named.partition(".")[0]
    return isinstance(found, type) and found.__module__.partition(".")[0] == package
