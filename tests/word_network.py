"""A small transformer whose tokens are words or letters, made in memory: it can be trained in a test."""

import re

import torch

from kshot.engine.language_model import Engine
from kshot.models.hf import build_backbone

WIDTH, EMBEDDING, INNER, SHARP = 128, 2.0, 0.3, 6.0
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


def word_engine(*, seed: int = 0, known: str = "", linking: float = 0.0) -> Engine:
    """Return a network of two layers, whose first reads the four tokens before each; all else is random.

    Its heads look at fixed distances, as biases of queries and keys turn with the position (RoPE): the score of a key
    that is `distance` before is sum_f cos(f (distance - wanted)) over the frequencies f.

    Args:
        seed: For the weights.
        known: Words that are tokens (`WordTokenizer`).
        linking: How much the second layer's first head already says again what stood four tokens after a word like the
            one three tokens ago: as networks do that have read much, and little of this kind. 0: not at all.
    """
    n_heads, size = 4, WIDTH // 4
    shape = {
        "vocab_size": WIDTH,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_heads,
        "head_dim": size,
        "max_position_embeddings": 4096,
        "attention_bias": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }
    backbone = build_backbone("llama", shape, WordTokenizer(known), name="words", seed=seed)
    frequencies = 10_000.0 ** -(torch.arange(size // 2) * 2 / size)
    first = backbone.model.model.layers[0]
    with torch.no_grad():
        for weight in backbone.model.parameters():
            if weight.ndim > 1:
                weight.mul_(INNER)
        source = torch.Generator().manual_seed(seed)
        tokens, one = (torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=source))[0] for _ in range(2))
        backbone.model.model.embed_tokens.weight.copy_(EMBEDDING * tokens)
        attention = first.self_attn
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for head in range(n_heads):
            turned = -(head + 1) * frequencies
            of_head = slice(head * size, (head + 1) * size)
            attention.q_proj.bias[of_head] = SHARP * torch.cat([turned.cos(), turned.sin()])
            attention.k_proj.bias[of_head] = SHARP * torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
        values = one[:size].repeat(
            n_heads, 1
        )  # each head reads the same of a token, and writes it to a place of its own
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(one.T)
        if linking:
            second = backbone.model.model.layers[1].self_attn
            second.q_proj.weight[:size] = linking * one[2 * size : 3 * size]
            second.k_proj.weight[:size] = linking * one[3 * size :]
            second.v_proj.weight[:size] = linking * one[:size]
            second.o_proj.weight[:, :size] = linking * one[:size].T
    return Engine(backbone)
