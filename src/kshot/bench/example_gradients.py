"""How much faster gradients of single examples are in batches than one by one, and that they are the same.

One by one is transformers with SDPA, fp32, the same threads, weights frozen, all logits, a text at a time; timed in
turn with ours on the same texts: a question of about 40 tokens and its answer after four trained vectors.
"""

import time

import numpy as np
import torch

from kshot.bench.packed_scoring import RandomText
from kshot.core.gradient_settings import GradientSettings
from kshot.core.lessons import TrainingText
from kshot.core.types import Prompt, Segment
from kshot.engine.gradients import ExampleGradients
from kshot.engine.language_model import Engine
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone
from kshot.models.prefix import Prefix
from kshot.models.white_box import load_white_box

N_TEXTS, N_TOKENS, N_TIMED = 22, 40, 2


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return speedup_vs_loop, max_rel_diff (of an example's gradient), examples_per_second."""
    backbone = load_white_box(model)
    taken = ExampleGradients(backbone, GradientSettings(), can_pack=True, seed=0)
    rows = [taken.prepared(row) for row in _rows(backbone)]
    soft = taken.weights.soft.detach() if isinstance(taken.weights, Prefix) else torch.empty(0)
    gaps, seconds = [], []
    for _ in range(N_TIMED + 1):
        began = time.perf_counter()
        ours = torch.cat([taken.gradients(batch) for batch in taken.batches(rows)])
        middle = time.perf_counter()
        theirs = [_alone(backbone, row, soft) for row in rows]
        seconds.append((middle - began, time.perf_counter() - middle))
        gaps += [float(torch.linalg.norm(a - b) / torch.linalg.norm(b)) for a, b in zip(ours, theirs, strict=True)]
    fast, slow = (float(np.median(s)) for s in zip(*seconds[1:], strict=True))  # the first time warms up
    return {"speedup_vs_loop": slow / fast, "max_rel_diff": max(gaps), "examples_per_second": len(rows) / fast}


def _rows(backbone: Backbone) -> list[TrainingRow]:
    text, rows = RandomText(backbone), []
    for _ in range(N_TEXTS):
        prompt = Prompt((Segment("query", text.question(N_TOKENS)), Segment("answer", text.answer())))
        rows.append(Engine(backbone).training_row(TrainingText(prompt)))
    return rows


def _alone(backbone: Backbone, row: TrainingRow, soft: torch.Tensor) -> torch.Tensor:
    """Return a text's gradient as transformers' own loss gives it, over all logits."""
    leaf = soft.clone().requires_grad_()
    embedded = backbone.embed(torch.tensor(row.ids))
    embedded = torch.cat([embedded[: row.soft[0]], leaf, embedded[row.soft[-1] + 1 :]])
    labels = torch.full((1, len(row.ids)), -100)
    labels[0, list(row.supervised)] = torch.tensor([row.ids[at] for at in row.supervised])
    loss = backbone.model(inputs_embeds=embedded[None], labels=labels, use_cache=False).loss  # the mean
    return torch.autograd.grad(loss * len(row.supervised), leaf)[0].flatten()
