"""What identifies a language model: its weights, what is computed with them, and its tokenizer.

Of a model that was read from files these are the files, by their sha256 (`kshot.store.file_hashes`); of one that was
made in memory all its values. Names, places, versions and the precision in which it runs are left out.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from kshot.core.seeding import digest
from kshot.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, has_weights, weights_in
from kshot.store.file_hashes import sha256_of

CODE = "transformers_modules"  # the package in which transformers puts code that came with a model
_NO_MATTER = {
    "_name_or_path", "name_or_path", "_model_name_or_path", "base_model_name_or_path", "revision", "peft_version",
    "transformers_version", "dtype", "torch_dtype",
}  # fmt: skip
_OF_TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
PROBE = "The quick brown fox: 0123456789,\n\n(é) ¿Qué?"


def of_files(
    folder: Path, tokenizer: Any, tokenizer_folder: Path, model: Any, adapter: Path | None = None
) -> str | None:
    """Return what identifies a model that was read from files, or None where its weights have names of their own.

    Args:
        folder: With its config and weights.
        tokenizer: As it was loaded.
        tokenizer_folder: Where its files are.
        model: As it was loaded: code of its own that was run counts too.
        adapter: With the config and weights of an adapter that was worked in.
    """
    config = _read(folder / CONFIG)
    if not has_weights(folder) or "transformers_weights" in config:
        return None
    files = [*weights_in(folder, folder.name), *_tokenizer_files(tokenizer, tokenizer_folder), *_code(model, tokenizer)]
    settings = [config]
    if adapter:
        files.append(adapter / ADAPTER_WEIGHTS)
        settings.append(_read(adapter / ADAPTER_CONFIG))
    named = zip((file.name for file in files), sha256_of(files), strict=True)
    return digest(sorted(named), [_what_matters(one) for one in settings], _last(model, tokenizer))


def of_values(model: Any, tokenizer: Any) -> str:
    """Return what identifies a model that was made in memory: every value of its weights; 0.6 s a gigabyte."""
    with ThreadPoolExecutor() as threads:  # hashlib lets others run meanwhile
        weights = sorted(model.state_dict().items())
        values = list(threads.map(_of_values, (weight for _, weight in weights)))
    config = _what_matters(json.loads(model.config.to_json_string(use_diff=False)))
    return digest([name for name, _ in weights], values, config, _of_tokenizer(tokenizer), _last(model, tokenizer))


def of_samples(model: Any, probe: Iterable[int]) -> str:
    """Return what identified a model before whole files were looked at, for what was saved then.

    Args:
        model: Of 4,096 values of each weight, its precision and kind.
        probe: The ids of a text.
    """
    state = hashlib.sha256(f"{model.dtype} {model.config.model_type}".encode())
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 4096)].float().cpu().numpy()
        state.update(f"{name}{tuple(weight.shape)}".encode() + sample.tobytes())
    state.update(str(tuple(probe)).encode())
    return state.hexdigest()


def _of_values(weight: torch.Tensor) -> list[Any]:
    flat = weight.detach().reshape(-1).cpu().contiguous()
    return [
        str(weight.dtype),
        list(weight.shape),
        hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest(),
    ]


def _read(file: Path) -> Any:
    """Return a config as transformers reads it: infinity may stand in it."""
    return json.loads(file.read_text("utf-8"))


def _what_matters(value: Any) -> Any:
    """Return a config without names, places, versions and precision."""
    if isinstance(value, Mapping):
        return {key: _what_matters(item) for key, item in value.items() if key not in _NO_MATTER}
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return list(map(_what_matters, value)) if isinstance(value, list) else value


def _last(model: Any, tokenizer: Any) -> list[Any]:
    """Return the tokens that end a text: a generation config says it, which need not stand in a file."""
    return [getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id]


def _tokenizer_files(tokenizer: Any, folder: Path) -> list[Path]:
    names = {*_OF_TOKENIZERS, *getattr(tokenizer, "vocab_files_names", {}).values()}
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def _of_tokenizer(tokenizer: Any) -> Any:
    """Return all that a tokenizer in memory consists of; of one that is not transformers' its kind and a probe."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return [type(tokenizer).__qualname__, list(tokenizer.encode(PROBE, add_special_tokens=True))]
    about = [tokenizer.get_vocab(), tokenizer.special_tokens_map, str(tokenizer.chat_template)]
    if tokenizer.is_fast:
        backend: Any = tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
        whole = json.loads(backend.to_str())
        about.append({key: value for key, value in whole.items() if key not in ("padding", "truncation")})
    return about


def _code(*loaded: Any) -> list[Path]:
    """Return the files of Python that came with a model and was run."""
    modules = {kind.__module__ for kind in map(type, loaded) if kind.__module__.partition(".")[0] == CODE}
    folders = {Path(inspect.getfile(sys.modules[module])).parent for module in modules}
    return sorted(file for folder in folders for file in folder.glob("*.py"))
