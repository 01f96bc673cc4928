"""From a name to a language model: the door that users and AdaptedModel go through."""

from pathlib import Path

from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.paths import at_home
from kshot.models.scripted import scripted_from
from kshot.models.white_box import load_white_box


def load_model(
    name: str, *, device: str | None = None, dtype: str = "auto", revision: str | None = None
) -> LanguageModel:
    """Load a language model.

    Args:
        name: Hub id or folder of a causal LM in transformers' format, "demo" (the packaged Gemma-3-270M),
            "gguf:FILE", "tiny" (two random layers, for trials) or "scripted" / "scripted:FILE" (answers from a table).
        device: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: "auto" (float32 on the CPU), "float32", "bfloat16" or "float16".
        revision: Commit, branch or tag on the hub.

    Raises:
        UserError: An unknown model, or a missing extra.

    Example:
        >>> load_model("scripted").count_tokens("Who painted it ?")
        4
    """
    name = at_home(name)
    is_scripted = name == "scripted" or name.startswith("scripted:")
    if (is_scripted or name == "tiny") and (device or revision or dtype != "auto"):
        raise UserError(f"--device, --dtype and --revision must be left out for '{name}', which has none of them.")
    if revision and (name == "demo" or name.startswith("gguf:") or Path(name).is_dir()):
        raise UserError(f"--revision must be left out for '{name}', which is on no hub.")
    if is_scripted:
        return scripted_from(name)
    backbone = load_white_box(name, device=device, dtype=dtype, revision=revision)
    from kshot.engine.language_model import Engine

    return Engine(backbone)


def portable_name(name: str) -> str:
    """Return the name with a local path made absolute, so that it can be loaded from another folder."""
    if name in ("demo", "tiny", "scripted"):
        return name
    scheme, _, path = name.rpartition(":")
    if scheme in ("gguf", "scripted") or (not scheme and Path(name).is_dir()):
        return f"{scheme}:{Path(path).resolve()}".removeprefix(":")
    return name
