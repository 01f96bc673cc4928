"""What the files of a sentence encoder may name: classes of sentence-transformers and torch, and no pickles."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kshot.core.errors import UserError, in_short
from kshot.core.json_text import from_json

_MODULES, _OURS, _TORCHS = "modules.json", "sentence_transformers.", "torch.nn."
_CLASSES = {"tokenizer_class": _OURS, "activation_function": _TORCHS, "activation_fn": _TORCHS}
_KERNELS = ("attn_implementation", "_attn_implementation")


def check_encoder_files(folder: Path, name: str) -> None:
    """Refuse an encoder's folder that would have other code run, before anything of it is loaded.

    sentence-transformers imports the classes that `modules.json`, a router's `types`, `tokenizer_class` and activations
    name, transformers a kernel of the hub for attention, and both read pickles where there are no safetensors.

    Args:
        folder: The folder.
        name: What the user called it.

    Raises:
        UserError: It names something else, or can be read in no other way.
    """
    for file in sorted(folder.rglob("*.json")):
        for named, package in _named_classes(file):
            if not (isinstance(named, str) and named.startswith(package) and _is_class(named)):
                raise UserError(
                    f"{file} must name classes of {package.rstrip('.')} alone, as others would be run; got {named!r}. "
                    "Give another encoder."
                )
    for file in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(file.parent.glob("*.safetensors")):
            raise UserError(
                f"The weights of the encoder '{name}' must be safetensors, as loading a pickle can run anything; it "
                f"has {file}. Save it again with SentenceTransformer.save_pretrained, where you trust it."
            )


def _named_classes(file: Path) -> Iterator[tuple[Any, str]]:
    """Return what a file names that is imported, with what its name must begin with."""
    try:
        said = from_json(file.read_text("utf-8"))
    except (OSError, ValueError):  # sentence-transformers says so where it needs the file
        return
    for key, value in _fields(said):
        if (file.name == _MODULES and key == "type") or (key in _CLASSES and "." in str(value)):
            yield value, _CLASSES.get(key, _OURS)
        if key == "types" and isinstance(value, dict):
            yield from ((named, _OURS) for named in value.values())
        if key in _KERNELS and "/" in str(value):
            yield value, _TORCHS


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the fields of all objects in a JSON value."""
    if isinstance(value, dict):
        yield from value.items()
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inside:
        yield from _fields(item)


def _is_class(named: str) -> bool:
    """Return whether a dotted name is a class of the package that it begins with."""
    from sentence_transformers.util import import_from_string

    try:
        found = import_from_string(named)
    except Exception as error:  # whatever importing a name that is none makes of it
        raise UserError(f"'{named}' must be a class of an encoder; {in_short(error)}. Give another encoder.") from error
    return isinstance(found, type) and found.__module__.partition(".")[0] == named.partition(".")[0]
