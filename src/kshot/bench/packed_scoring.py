"""How much faster packed scoring is than scoring one prompt at a time, and how close to what the arithmetic allows.

"Naive" is transformers with SDPA, inference mode, fp32, the same threads, all logits, one prompt at a time; timed on a
fixed sample and extrapolated.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.core.types import Prompt, ScoreRequest, Segment
from kshot.engine.language_model import Engine
from kshot.engine.trie import build_tree
from kshot.models.hf import Backbone
from kshot.models.white_box import load_white_box

N_DEMONSTRATIONS, N_QUERIES, N_NAIVE, N_STREAM = 16, 64, 9, 100
LABELS = (" business\n\n", " politics\n\n", " technology\n\n")


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return speedup_vs_naive, max_abs_diff_nats, stream_cost_ratio, fraction_of_ceiling, peak_rss_gb."""
    backbone = load_white_box(model)
    text = RandomText(backbone)
    shared = [text.demonstration(40) for _ in range(N_DEMONSTRATIONS)]
    requests = [ScoreRequest(Prompt((*shared, Segment("query", text.question(32)))), LABELS) for _ in range(N_QUERIES)]
    engine = Engine(backbone)
    assert engine.obstacle is None
    engine.score(requests[:2])  # warm up
    seconds, scores = _timed(lambda: engine.score(requests))
    encoded = [engine._encoder.score(r) for r in requests]
    rows = [(i, j) for i in range(N_QUERIES) for j in range(len(LABELS))]
    sample = rows[:: len(rows) // N_NAIVE][:N_NAIVE]
    took, gaps = [], []
    for i, j in [sample[0], *sample]:  # the first one warms up
        prompt, answers = encoded[i]
        one, value = _timed(lambda p=prompt, a=answers[j]: naive_log_prob(backbone, p, a))
        took.append(one)
        gaps.append(abs(value - scores[i][j]))
    naive = float(np.mean(took[1:])) * len(rows)
    ceiling = _naive_flops(backbone, encoded) / _packed_flops(backbone, encoded)
    return {
        "speedup_vs_naive": naive / seconds,
        "max_abs_diff_nats": max(gaps),
        "stream_cost_ratio": _stream_cost_ratio(backbone, engine, text),
        "fraction_of_ceiling": naive / seconds / ceiling,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


class RandomText:
    """Random words that are one token each, in prompts of the usual layout."""

    def __init__(self, backbone: Backbone):
        self._tokenise = backbone.tokenise
        self._rng = np.random.default_rng(0)
        self._words = [
            "market",
            "minister",
            "software",
            "goal",
            "film",
            "court",
            "bank",
            "phone",
            "match",
            "music",
            "vote",
            "share",
            "virus",
            "coach",
        ]

    def question(self, n_tokens: int) -> str:
        """Return an unanswered block of `n_tokens` tokens."""
        words: list[str] = []
        while len(self._tokenise(text := f"Text: {' '.join(words)}\nLabel:")) < n_tokens:
            words.append(str(self._rng.choice(self._words)))
        return text

    def demonstration(self, n_tokens: int) -> Segment:
        """Return an answered block of about `n_tokens` tokens."""
        return Segment("demonstration", self.question(n_tokens - 2) + self.answer())

    def answer(self) -> str:
        """Return one of the labels."""
        return str(self._rng.choice(LABELS))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


@torch.inference_mode()
def naive_log_prob(backbone: Backbone, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Return the log-probability in nats of an answer by a forward pass of its own, with all logits."""
    ids = torch.tensor([[*prompt, *answer[:-1]]], device=backbone.device)
    logits = backbone.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
    target = torch.tensor(answer, device=backbone.device)
    return float(torch.log_softmax(logits, -1)[torch.arange(len(answer)), target].double().sum())


@torch.inference_mode()
def _stream_cost_ratio(backbone: Backbone, engine: Engine, text: RandomText) -> float:
    """Return the cost of all-past over a stream, relative to its body, branches and scored positions run plainly."""
    requests, before = [], []
    for _ in range(N_STREAM):
        query = text.question(38)
        requests.append(ScoreRequest(Prompt((*before, Segment("query", query))), LABELS))
        before.append(Segment("demonstration", query + text.answer()))
    encoded = [engine._encoder.score(r) for r in requests]
    tree = build_tree([p for p, _ in encoded], [a for _, a in encoded])
    packed, _ = _timed(lambda: engine.score(requests))
    trunk = encoded[-1][0]
    body = backbone.model.get_decoder()
    head = backbone.model.get_output_embeddings()
    branches = tree.tokens[: len(tree.tokens) - len(trunk)]
    states = torch.randn(len(np.unique(tree.positions)), head.weight.shape[1], device=backbone.device)
    plain = 0.0
    for ids in (np.array(trunk), branches):
        row = torch.tensor(ids, device=backbone.device)[None]
        plain += _timed(lambda row=row: body(input_ids=row, use_cache=False))[0]
    plain += _timed(lambda: [torch.logsumexp(head(part), -1) for part in states.split(64)])[0]
    return packed / plain


def _flops(backbone: Backbone, depths: NDArray[np.int64], n_logits: int) -> float:
    """Return multiply-adds times two of running tokens at `depths` and `n_logits` positions of the head."""
    config, head = backbone.config, backbone.model.get_output_embeddings().weight
    body = sum(p.numel() for p in backbone.model.get_decoder().layers.parameters() if p.ndim > 1)
    windows = backbone.windows or [None] * config.num_hidden_layers
    keys = sum(np.minimum(depths + 1, w or depths + 1).sum() for w in windows)
    per_key = 4 * config.num_attention_heads * config.head_dim
    return 2.0 * body * len(depths) + per_key * float(keys) + 2.0 * head.numel() * n_logits


def _naive_flops(backbone: Backbone, encoded: list[Any]) -> float:
    total = 0.0
    for prompt, answers in encoded:
        for answer in answers:
            n = len(prompt) + len(answer) - 1
            total += _flops(backbone, np.arange(n), n)
    return total


def _packed_flops(backbone: Backbone, encoded: list[Any]) -> float:
    tree = build_tree([p for p, _ in encoded], [a for _, a in encoded])
    return _flops(backbone, tree.depths, len(np.unique(tree.positions)))
