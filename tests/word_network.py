"""A small transformer whose tokens are words or letters, made in memory: it can be trained in a test."""

import re

import torch

from kshot.engine.language_model import Engine
from kshot.models.hf import build_backbone

EMBEDDING, INNER = 1.0, 0.3
_PIECES = re.compile(r"\n\n|\n| ?[A-Za-z]+|\d| ?[^\w\s]|\s")


class WordTokenizer:
    """Words with the space before them as tokens, in the order in which they were first seen; digits one by one.

    Args:
        known: Words that are none of these are known by their first two letters alone; empty: all are known.
    """

    bos_token_id = 0
    eos_token_id = 1
    chat_template = None

    def __init__(self, known: str = ""):
        self._ids: dict[str, int] = {"<bos>": 0, "<eos>": 1}
        self._words = set(known.split())

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return token ids, after the first token if asked."""
        pieces = map(self._token, _PIECES.findall(text))
        return [0] * add_special_tokens + [self._ids.setdefault(piece, len(self._ids)) for piece in pieces]

    def _token(self, piece: str) -> str:
        word = piece.strip()
        is_known = not self._words or not word.isalpha() or word in self._words
        return piece if is_known else f" {word[:2]}"

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of token ids."""
        texts = list(self._ids)
        return "".join(texts[i] for i in token_ids if 1 < i < len(texts))


def word_engine(*, seed: int = 0, width: int = 64, layers: int = 2, known: str = "", vocab: int = 512) -> Engine:
    """Return the network with random weights."""
    shape = {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": width // 4,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }
    backbone = build_backbone("llama", shape, WordTokenizer(known), name="words", seed=seed)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if weight.ndim > 1:  # each token says itself at first, which is near to copying
                weight.mul_(EMBEDDING if "embed" in name else INNER)
    return Engine(backbone)
