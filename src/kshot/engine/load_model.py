"""From a name to a language model: the door that users and AdaptedModel go through."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot.core.api_settings import is_api, parse_address
from kshot.core.errors import UserError
from kshot.core.models import LanguageModel
from kshot.core.paths import at_home
from kshot.models.scripted import scripted_from
from kshot.models.white_box import load_white_box


def load_model(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    api: str | Mapping[str, Any] | None = None,
) -> LanguageModel:
    """Load a language model.

    Args:
        name: Hub id or folder of a causal LM in transformers' format, or of an adapter of one in peft's, "demo" (the
            packaged Gemma-3-270M), "gguf:FILE", "tiny" (two random layers, for trials), "scripted" / "scripted:FILE"
            (answers from a table), or "openai:NAME" / "openai:http://host/v1#NAME" (behind an API).
        device: "cpu", "cuda", …; by default CUDA if there is one.
        dtype: "auto" (float32 on the CPU), "float32", "bfloat16" or "float16".
        revision: Commit, branch or tag on the hub.
        trust_remote_code: Whether Python that comes with the model's files may be run; without it such a model is
            refused.
        api: How a model behind an API is asked, such as "max-tokens=8192,concurrency=16" (docs/anywhere.md).

    Raises:
        UserError: An unknown model, a missing extra, or files that are damaged or no causal language model.

    Example:
        >>> load_model("scripted").count_tokens("Who painted it ?")
        4
    """
    if is_api(name):
        return _api_model(str(name), api, has_more=bool(device or revision or dtype != "auto" or trust_remote_code))
    if api:
        raise UserError(f"--api must be left out for '{name}', which is behind no API.")
    name = portable_name(at_home(name))
    if not is_placed(name) and (device or revision or dtype != "auto" or trust_remote_code):
        raise UserError(
            f"--device, --dtype, --revision and --trust-remote-code must be left out for '{name}', which has none of "
            "them."
        )
    if revision and (name == "demo" or name.startswith("gguf:") or Path(name).is_dir()):
        raise UserError(f"--revision must be left out for '{name}', which is on no hub.")
    if name == "scripted" or name.startswith("scripted:"):
        return scripted_from(name)
    backbone = load_white_box(name, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    from kshot.engine.language_model import Engine

    return Engine(backbone)


def _api_model(name: str, api: str | Mapping[str, Any] | None, *, has_more: bool) -> LanguageModel:
    address = parse_address(name)  # before its name is said anywhere
    if has_more:
        raise UserError(
            f"--device, --dtype, --revision and --trust-remote-code must be left out for '{address.name}', whose "
            "server has loaded it."
        )
    from kshot.models.remote.openai import load_api_model

    return load_api_model(name, api)


def placing_of_another(name: str, placing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds for a model that a recipe names of how the models of its run are loaded.

    Args:
        name: As `load_model`.
        placing: Arguments of `load_model`, those for models behind an API among them. A revision is of one repository.

    Example:
        >>> given = {"device": "cuda", "dtype": "auto", "revision": "v2", "api": "concurrency=2"}
        >>> [placing_of_another(name, given) for name in ("demo", "openai:m", "scripted:answers.json")]
        [{'device': 'cuda'}, {'api': 'concurrency=2'}, {}]
    """
    names = ("api",) if is_api(name) else ("device", "dtype", "trust_remote_code") if is_placed(name) else ()
    return {key: placing[key] for key in names if placing.get(key) not in (None, "auto", False)}


def is_placed(name: str) -> bool:
    """Return whether anything can be said of how a model is loaded or asked, beside its name."""
    return name not in ("scripted", "tiny") and not name.startswith("scripted:")


def portable_name(name: str) -> str:
    """Return the name of a model with a local path made absolute, so that it can be loaded from another folder."""
    if name in ("demo", "tiny", "scripted") or is_api(name):
        return name
    scheme, _, path = name.partition(":")
    if scheme in ("gguf", "scripted"):
        return f"{scheme}:{Path(path).resolve()}"
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def is_moved(name: str) -> bool:
    """Return whether a model that was loaded from this machine once is not where `portable_name` says."""
    path = Path(name.removeprefix("gguf:").removeprefix("scripted:"))
    return path.is_absolute() and not path.exists()
