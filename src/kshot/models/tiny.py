"""A real transformer of two layers and 32 dimensions with a byte tokenizer, made in memory: for tests and trials."""

from collections.abc import Mapping
from typing import Any

from kshot.models.hf import Backbone, build_backbone

_SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "tie_word_embeddings": False,
}


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255, and 256 as the first token."""

    bos_token_id = 256
    eos_token_id = 257
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the bytes of `text`, after the first token if asked."""
        return [256] * add_special_tokens + list(text.encode("utf-8", "replace"))

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the bytes among the ids."""
        return bytes(i for i in token_ids if i < 256).decode("utf-8", "replace")


def tiny_backbone(model_type: str = "llama", *, seed: int = 0, settings: Mapping[str, Any] | None = None) -> Backbone:
    """Make the tiny model.

    Args:
        model_type: Architecture, e.g. "llama", "qwen3", "gemma3_text", "gpt2".
        seed: For the weights.
        settings: Config fields that differ from the usual shape.
    """
    shape = {**_SHAPE, **(settings or {})}
    return build_backbone(model_type, shape, ByteTokenizer(), name="tiny", seed=seed)
