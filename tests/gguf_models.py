"""A folder of transformers as a GGUF file, written with the gguf package: so llama.cpp reads the same small model."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

from broken_models import byte_tokenizer

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}


def write_gguf(model: Path, file: Path) -> Path:
    """Write what `broken_models.write_model` wrote, in float32, with Llama's queries and keys as llama.cpp has them."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    name, head = ARCHITECTURES[config["model_type"]], config["head_dim"]
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(file, name)
    writer.add_context_length(512)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_freq_base(10_000.0)
    if name == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
    words = sorted(byte_tokenizer().get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([gguf.TokenType.CONTROL if i < 3 else gguf.TokenType.NORMAL for _, i in words])
    writer.add_token_merges(["\u0100 \u0100"])  # llama.cpp wants one; no text holds two zeros
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    kind = next(k for k, value in gguf.MODEL_ARCH_NAMES.items() if value == name)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for weight, tensor in load_file(model / "model.safetensors").items():
        values = tensor.float().numpy()
        part = weight.split(".")[-2]
        if name == "llama" and part in heads:
            halves = (heads[part], 2, values.shape[0] // heads[part] // 2, values.shape[1])
            values = values.reshape(halves).swapaxes(1, 2).reshape(values.shape)
        if name == "gemma3" and part.endswith("norm"):
            values = values + 1  # as llama.cpp multiplies by the weight, and Gemma by one more
        writer.add_tensor(names.get_name(weight, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
