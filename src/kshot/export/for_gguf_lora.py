"""A trained adapter as llama.cpp loads it: a GGUF file of type adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kshot.adapted.adapter_files import base_of
from kshot.core.errors import UserError, missing_extra
from kshot.core.json_text import from_json
from kshot.export.for_prompt import ForPrompt, written_prompt
from kshot.export.handover import Handover
from kshot.export.llama_cpp_reading import LlamaCppReading
from kshot.export.target import NotReadError, Reader, filled
from kshot.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from kshot.models.white_box import gguf_of
from kshot.prompts.chat import Chat

LORA = "adapter.gguf"
_PREFIX = "base_model.model."
_MOST_CONTEXT = 8192  # tokens that llama.cpp keeps room for
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}  # model_type in transformers -> llama.cpp's


@dataclass(frozen=True)
class ForGgufLora:
    """Writes `adapter.gguf` and `prompt.txt`.

    Attributes:
        base: A GGUF file of the base, with which the adapter is scored; the one that was adapted, if it was one.

    Source: llama.cpp, convert_lora_to_gguf.py, https://github.com/ggml-org/llama.cpp. Differs: the adapter alone is
    looked at, not the base's weights; float32.
    """

    base: Path | None = None
    name: str = "gguf-lora"
    weights: bool = True

    def write(self, given: Handover, folder: Path) -> None:
        """Write adapter and prompt."""
        import gguf

        config, architecture = _known(given)
        trained = given.fitted.trained
        assert trained is not None
        with TemporaryDirectory(prefix="kshot-") as place:
            trained.save_weights(Path(place))
            adapter, tensors = from_json((Path(place) / ADAPTER_CONFIG).read_text("utf-8")), _loaded(Path(place))
        kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
        writer = gguf.GGUFWriter(folder / LORA, architecture)
        writer.add_type("adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter["lora_alpha"]))
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for name, values in sorted(tensors.items()):
            module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
            found = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
            if found is None:
                raise UserError(
                    f"--to gguf-lora must know each module of the adapter; llama.cpp has no name for '{module}'. Use "
                    "--to peft."
                )
            if part == "B" and architecture == "llama":
                values = _permuted(module, values, config)
            writer.add_tensor(f"{found}.lora_{part.lower()}", np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        ForPrompt().write(given, folder)

    def usage(self, given: Handover) -> str:
        """Say the command line."""
        file = self._gguf(given)
        base = base_of(given.model)
        model = file.name if file else f"a GGUF file of {base.in_words}, made by llama.cpp's convert_hf_to_gguf.py"
        return (
            f"```\nllama-server --model {file.name if file else 'BASE.gguf'} --lora {LORA}\n```\n\n"
            f"The base is {model}: a quantised one gives other probabilities than the weights that were measured. "
            f"Ask by `/v1/completions`.\n\n{ForPrompt().usage(given)}"
        )

    def reader(self, given: Handover, folder: Path) -> Reader:
        """Return llama.cpp, in this process, with base and adapter."""
        file = self._gguf(given)
        if file is None:
            raise NotReadError(
                f"llama.cpp reads an adapter beside its base as a GGUF file; of '{given.model.name}' none is known. "
                "Give it with --gguf FILE."
            )
        reading = LlamaCppReading(file, folder / LORA, n_context=min(given.model.max_tokens, _MOST_CONTEXT))
        spells = isinstance(given.task_model.layout, Chat)
        text = written_prompt(folder)
        read = partial(reading.log_probs, spells_first_token=spells)
        return Reader(reading.name, partial(filled, text), read, given.answer)

    def _gguf(self, given: Handover) -> Path | None:
        return self.base or gguf_of(given.model.name)


def _known(given: Handover) -> tuple[Any, str]:
    """Return the config of the base, and what llama.cpp calls its architecture."""
    from kshot.engine.session import Session

    model = given.model
    base_of(model)  # which refuses one that is an adapter itself
    assert isinstance(model, Session)
    config = model.backbone.model.config
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"--to gguf-lora knows the architectures {', '.join(ARCHITECTURES)}; '{model.name}' is a "
            f"{config.model_type}. Use --to peft, and convert_lora_to_gguf.py of llama.cpp on its folder."
        )
    return config, ARCHITECTURES[config.model_type]


def _loaded(folder: Path) -> dict[str, NDArray[np.float32]]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise missing_extra("safetensors", "hf", "--to gguf-lora") from error
    return load_file(folder / ADAPTER_WEIGHTS)


def _permuted(module: str, values: NDArray[np.float32], config: Any) -> NDArray[np.float32]:
    """Return what is added to queries and keys in the order of llama.cpp, which rotates neighbours, not halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module.rpartition(".")[2])
    if heads is None:
        return values
    n_out, rank = values.shape
    halves: Sequence[int] = (heads, 2, n_out // heads // 2, rank)
    return values.reshape(halves).swapaxes(1, 2).reshape(n_out, rank)
