"""The tiny model as a GGUF file, so that llama.cpp runs the same weights in milliseconds."""

from pathlib import Path

import gguf
import numpy as np

from kshot.models.hf import Backbone

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(backbone: Backbone, file: Path) -> None:
    """Write a backbone of Llama's architecture with the byte tokenizer, in float32."""
    config = backbone.model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config.vocab_size)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in backbone.model.state_dict().items():
        values = tensor.float().numpy()
        kind = name.rsplit(".", 2)[-2]
        writer.add_tensor(_name(name), _in_pairs(values, heads[kind]) if kind in heads else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def _in_pairs(values: np.ndarray, n_heads: int) -> np.ndarray:
    """Return queries or keys with the two numbers of each rotation side by side, as llama.cpp has them."""
    n, width = values.shape
    return values.reshape(n_heads, 2, n // n_heads // 2, width).swapaxes(1, 2).reshape(n, width).copy()


def _add_tokenizer(writer: gguf.GGUFWriter, n_tokens: int) -> None:
    """Write the bytes as tokens in GPT-2's spelling, and the control tokens after them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    control = [f"<{i}>" for i in range(256, n_tokens)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spelled[byte] for byte in range(256)] + control)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(control))
    writer.add_token_merges(["ÿ ÿ"])  # of bytes that are in no text; llama.cpp wants one
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(True)
