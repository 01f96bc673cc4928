"""A state of training in a safetensors file: tensors by name, with a checksum over all that the file says."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kshot.core.errors import DamagedError
from kshot.core.json_text import from_json, to_json
from kshot.store.disk_faults import disk_fault
from kshot.store.files import writable, write_file

Tensors = Mapping[str, torch.Tensor]


def write_state(file: Path, tensors: Tensors, about: Mapping[str, Any]) -> None:
    """Write tensors, and what else belongs to them as JSON; a file that is there is replaced whole.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    found = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = to_json(about)
    metadata = {"kshot": text, "sha256": _checksum(found, text)}
    with writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, lambda partial: save_file(found, partial, metadata=metadata))


def read_state(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_state` wrote.

    Raises:
        DamagedError: It is not as it was written.
        OSError: The disk fails, or too many files are open (as SafetensorError too).
    """
    try:
        file.open("rb").close()  # safetensors says of whatever fails here that there is no file
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        text = metadata.get("kshot", "")
        if metadata.get("sha256") != _checksum(tensors, text):
            raise ValueError("its checksum differs")
        return tensors, from_json(text)
    except (OSError, ValueError, SafetensorError) as error:
        if disk_fault(error):
            raise  # it may be whole, and is worth hours
        raise DamagedError(
            f"{file} must be a state of training as kshot wrote it; {error}. Delete it: training then begins again."
        ) from error


def _checksum(tensors: Tensors, text: str) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(to_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
