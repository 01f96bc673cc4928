"""What is wrong with the files of a model's folder, looked up where they could not be loaded, and said by name."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kshot.core.errors import UserError, in_short
from kshot.core.json_text import from_json

CONFIG, ADAPTER_CONFIG, GENERATION_CONFIG = "config.json", "adapter_config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.tiktoken")
_POINTER = b"version https://git-lfs"
_READ = (".json", ".safetensors", ".model", ".txt", ".tiktoken")
_NUMBERS = {"F64", "F32", "F16", "BF16"}


def check_is_file(path: Path) -> None:
    """Raise UserError where a file is empty or a pointer of Git LFS."""
    if path.stat().st_size == 0:
        raise UserError(f"{path} must hold a part of a model; it is empty. Download it again.")
    with path.open("rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise UserError(
                f"{path} must hold a part of a model; it is a pointer of Git LFS, which stands for it. Run "
                f"`git lfs pull` in the folder it comes from."
            )


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: There is none.
    """
    check_is_file(path)
    try:
        found = from_json(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} must hold a JSON object; {in_short(error)}. Download it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object; it holds something else. Download it again.")
    return found


def check_folder(folder: Path, name: str) -> None:
    """Raise UserError for the first thing that keeps a folder from being a model's.

    Args:
        folder: The folder.
        name: What the user called it.
    """
    if not (folder / CONFIG).is_file():
        _refuse_other_folder(folder, name)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _READ:
            read_object(path) if path.suffix == ".json" and path.name != "vocab.json" else check_is_file(path)
    for path in weights_in(folder, name):
        check_safetensors(path)
    if not has_tokenizer(folder):
        raise UserError(
            f"'{name}' must hold a tokenizer beside the weights; it has none of {', '.join(_TOKENIZERS[:3])}. Copy the "
            "tokenizer's files there, or save it with tokenizer.save_pretrained."
        )


def has_tokenizer(folder: Path) -> bool:
    """Return whether one of the files is there that tokenizers come in."""
    return any((folder / own).is_file() for own in _TOKENIZERS)


def check_numbers(folder: Path, name: str, parameters: Collection[str]) -> None:
    """Raise UserError where a weight is stored as whole numbers or in 8 bits, which mean nothing without scales.

    Args:
        folder: The folder of a model that is not quantized.
        name: What the user called it.
        parameters: The model's weights by the last two words of their names.
    """
    for path in weights_in(folder, name):
        for weight, kind in check_safetensors(path).items():
            if kind not in _NUMBERS and last_words(weight) in parameters:
                raise UserError(
                    f"The weights of '{name}' must be stored as floating-point numbers; '{weight}' is of type {kind}, "
                    f"and {CONFIG} tells of no quantization. Save the model again in float32 or bfloat16."
                )


def last_words(weight: str) -> str:
    """Return the name of a weight without the modules around its own, which files and models call differently."""
    return ".".join(weight.split(".")[-2:])


def _refuse_other_folder(folder: Path, name: str) -> None:
    """Say what a folder without a config is."""
    if any((folder / own).exists() for own in ("kshot.json", "best/kshot.json")):
        raise UserError(
            f"--model must name a language model; '{name}' is what kshot has made of one. Ask it with `kshot predict "
            f"{name}`, or write it as a model with `kshot merge {name} --out FOLDER`."
        )
    if files := sorted(folder.glob("*.gguf")):
        raise UserError(f"--model must name a GGUF file itself, not its folder '{name}'; write gguf:{files[0]}")
    raise UserError(
        f"--model must name a folder with {CONFIG}, safetensors weights and a tokenizer; '{name}' has no {CONFIG}. "
        "Copy the whole folder that save_pretrained wrote."
    )


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds weights under their usual names."""
    return any((folder / own).is_file() for own in (WEIGHTS, INDEX))


def weights_in(folder: Path, name: str) -> Iterator[Path]:
    """Iterate over the files of weights, each of which is there."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    if (folder / INDEX).is_file():
        named = read_object(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
            raise UserError(f"{folder / INDEX} must say in 'weight_map' where each weight is. Download it again.")
        for shard in sorted(set(named.values())):
            if not (folder / shard).is_file():
                raise UserError(
                    f"'{name}' must hold every file that {INDEX} names; {shard} is missing. Download it too."
                )
            yield folder / shard
        return
    pickles = sorted({*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")})
    if pickles:
        raise UserError(
            f"The weights of '{name}' must be safetensors, as loading a pickle can run anything; it has "
            f"{pickles[0].name}. Convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)"
        )
    raise UserError(f"'{name}' must hold weights in {WEIGHTS}; it has none. Download them too.")


def check_safetensors(path: Path) -> dict[str, str]:
    """Return the type of each weight in a file, which is read no further than to know that it is whole.

    Raises:
        UserError: It is not.
    """
    check_is_file(path)
    try:
        with safe_open(path, framework="np") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} must hold weights as safetensors; it is cut off or damaged ({in_short(error)}). Download it again."
        ) from error
