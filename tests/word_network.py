"""A small transformer whose tokens are words or letters, made in memory: it can be trained in a test."""

import re

from kshot.engine.language_model import Engine
from kshot.models.hf import build_backbone

_PIECES = re.compile(r"\n\n|\n| ?[A-Za-z]+|\d| ?[^\w\s]|\s")


class WordTokenizer:
    """Words with the space before them as tokens, in the order in which they were first seen; digits one by one.

    Args:
        split: Words that are none of these are cut into syllables of two letters.
    """

    bos_token_id = 0
    eos_token_id = 1
    chat_template = None

    def __init__(self, known: str = ""):
        self._ids: dict[str, int] = {"<bos>": 0, "<eos>": 1}
        self._words = set(known.split())

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return token ids, after the first token if asked."""
        pieces = [part for piece in _PIECES.findall(text) for part in self._parts(piece)]
        return [0] * add_special_tokens + [self._ids.setdefault(piece, len(self._ids)) for piece in pieces]

    def _parts(self, piece: str) -> list[str]:
        word = piece.strip()
        if not self._words or not word.isalpha() or word in self._words:
            return [piece]
        lead = piece[: len(piece) - len(word)]
        return [*([lead] if lead else []), *(word[i : i + 2] for i in range(0, len(word), 2))]

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
        "tie_word_embeddings": False,
    }
    return Engine(build_backbone("llama", shape, WordTokenizer(known), name="words", seed=seed))
