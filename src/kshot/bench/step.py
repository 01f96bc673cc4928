"""How much faster a training step is than the plain way, and how close to what the arithmetic allows.

Plain is transformers with peft, SDPA, fp32, the same threads, embeddings frozen, all logits; timed in turn with ours on
the same weights and text: three demonstrations and a query, about 250 tokens, LoRA of rank 16 on all linear layers.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from kshot.bench.packed_scoring import RandomText
from kshot.core.lessons import Training
from kshot.core.types import Prompt, Segment
from kshot.engine.guidance import norm
from kshot.engine.language_model import Engine
from kshot.engine.training import Trainer
from kshot.engine.training_rows import TrainingRow
from kshot.models.hf import Backbone
from kshot.models.weights import TrainedWeights
from kshot.models.white_box import load_white_box

N_DEMONSTRATIONS, N_TOKENS_EACH, N_TIMED = 3, 60, 8


def run(model: str = "demo") -> dict[str, float]:
    """Measure and return speedup_vs_plain, loss_diff (nats), grad_rel_diff, fraction_of_ceiling."""
    backbone = load_white_box(model)
    how = Training(lr=1e-4)
    row = _row(backbone)
    ours, plain = (TrainedWeights(backbone, "lora", rank=how.rank, seed=0) for _ in range(2))
    trainer = Trainer(backbone, ours, how, fingerprint="", can_pack=True)
    optimiser = torch.optim.AdamW(list(plain.parameters.values()), lr=how.lr, weight_decay=0.0)
    trainer.step([row])  # warm up, and leave the point where half of the gradients are zero
    plain.load_tensors(ours.tensors())
    with ours.active():
        found = trainer.gradient([row])
    with plain.active():
        loss = _plain_loss(backbone, row)
        gradient = list(torch.autograd.grad(loss, list(plain.parameters.values())))
    gap = norm([a - b for a, b in zip(found.gradient, gradient, strict=True)]) / norm(gradient)

    def plain_step() -> None:
        with plain.active():
            _plain_loss(backbone, row).backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters.values(), how.clip)
            optimiser.step()
            optimiser.zero_grad()

    plain_step()
    times = [(_seconds(plain_step), _seconds(lambda: trainer.step([row]))) for _ in range(N_TIMED)]
    speedup = float(np.median([a for a, _ in times]) / np.median([b for _, b in times]))
    return {
        "speedup_vs_plain": speedup,
        "loss_diff": abs(float(loss.detach()) - found.loss_nats),
        "grad_rel_diff": gap,
        "fraction_of_ceiling": speedup / _ceiling(backbone, row),
    }


def _row(backbone: Backbone) -> TrainingRow:
    text = RandomText(backbone)
    segments = []
    for _ in range(N_DEMONSTRATIONS + 1):
        segments += [Segment("query", text.question(N_TOKENS_EACH)), Segment("answer", text.answer())]
    encoded = Engine(backbone).encode(Prompt(tuple(segments)))
    return TrainingRow(encoded.ids, tuple(at for start, end in encoded.answer_spans for at in range(start, end)))


def _plain_loss(backbone: Backbone, row: TrainingRow) -> torch.Tensor:
    """Return transformers' own loss, over all logits."""
    labels = torch.full((1, len(row.ids)), -100)
    labels[0, list(row.supervised)] = torch.tensor([row.ids[at] for at in row.supervised])
    ids = torch.tensor([row.ids])
    return backbone.model(input_ids=ids, labels=labels, use_cache=False).loss


def _ceiling(backbone: Backbone, row: TrainingRow) -> float:
    """Return the ratio of the multiplications of both ways, forward and backward alike, attention left out."""
    model = backbone.model
    head = model.get_output_embeddings().weight.numel()
    tied = {id(p) for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    body = sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in tied)
    return (body + head) * len(row.ids) / (body * len(row.ids) + head * len(row.supervised))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
