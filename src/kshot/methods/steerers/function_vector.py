"""Function vectors: what a few heads write at the end of few-shot prompts, added to one layer of a bare prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kshot.core.errors import UserError
from kshot.core.fields import setting
from kshot.core.steering import Edit, Steering
from kshot.core.types import Example
from kshot.methods.contracts import Steerer
from kshot.methods.steerers.held_out import MOST_ASKED, held_out, held_out_best
from kshot.methods.steerers.icv import check_layer
from kshot.methods.steerers.task_embedding import few_shot_prompts, task_embedding
from kshot.taskmodel.taskmodel import TaskModel

SCALES = (0.01, 0.03, 0.1)


@dataclass(frozen=True)
class FunctionVector(Steerer):
    """Add the mean outputs of the heads with the largest causal effect to the residual stream after one layer.

    A head's effect is what its mean output does to the probability of the right answer in prompts whose answers were
    shuffled.

    Attributes:
        heads: How many heads are taken.
        prompts: Few-shot prompts, for the mean outputs as well as with shuffled answers.
        shots: Demonstrations in each of them.
        layer: Behind which the vector is added, from 0; -1 chooses by the examples' bits.
        scale: The vector's length relative to the residual stream's where it is added; 0 chooses.

    Source: Todd et al. (2023), Function Vectors in Large Language Models, sections 2 and 3,
    https://arxiv.org/abs/2310.15213.
    Differs: layer and length are chosen by the bits of held-out examples. Theirs, a third of the layers and the heads'
    own lengths, do nothing in models as Gemma, which norm the attention's output before it is added. The effect is in
    bits of the whole answer.
    """

    heads: int = setting(10, least=1, most=10_000)
    prompts: int = setting(25, least=1, most=10_000)
    shots: int = setting(10, least=1, most=1000)
    layer: int = setting(-1, least=-1, most=10_000)
    scale: float = setting(0.0, least=0)

    least = 4

    def fit(self, examples: Sequence[Example], *, model: TaskModel, rng: np.random.Generator) -> Steering:
        """Return the steering; see `kshot.methods.contracts.Steerer`.

        Raises:
            UserError: Fewer than four examples, or a layer that the model has not.
        """
        check_layer(self.layer, model)
        if len(examples) < self.least:
            raise UserError(f"function-vector needs at least {self.least} examples; got {len(examples)}.")
        held, known = held_out(examples, most=MOST_ASKED, rng=rng)
        how = {"n_prompts": self.prompts, "shots": self.shots, "rng": rng}
        means = task_embedding(known, model=model, **how)
        effects = causal_effects(means, *few_shot_prompts(known, **how), model=model, rng=rng)
        taken = np.zeros(effects.size, dtype=bool)
        taken[np.argsort(-effects, axis=None, kind="stable")[: self.heads]] = True
        written = model.activations.write_heads(means) * taken.reshape(*effects.shape, 1)
        vector = written.sum(axis=(0, 1), dtype=np.float64)
        vector = (vector / max(np.linalg.norm(vector), 1e-12)).astype(np.float32)[None]
        stream = np.linalg.norm(model.prompts_at_end([()] * len(held), held, "block"), axis=-1).mean(axis=0)
        layers = range(len(effects)) if self.layer < 0 else [self.layer]
        scales = (self.scale,) if self.scale else SCALES
        tried = [
            Steering(
                (Edit(layer, "block", "add", True, vector, np.array([scale * stream[layer]], dtype=np.float32)),),
                model.unsteered,
                {"steerer": "function-vector", "layer": layer, "scale": scale},
            )
            for layer in layers
            for scale in scales
        ]
        best = tried[0] if len(tried) == 1 else tried[held_out_best([(tried, held)], model)]
        named = [[int(at // effects.shape[1]), int(at % effects.shape[1])] for at in np.flatnonzero(taken)]
        return replace(best, about={**best.about, "heads": named})


def causal_effects(
    means: NDArray[np.float32],
    shown: Sequence[Sequence[Example]],
    queries: Sequence[Example],
    *,
    model: TaskModel,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return by how many bits each head's mean output helps in prompts with shuffled answers, `[n_layers, n_heads]`.

    Args:
        means: `[n_layers, n_heads, head_dim]`.
        shown: The demonstrations of each prompt, whose answers are shuffled here.
        queries: The query of each.
        model: The language model on this task.
        rng: For the shuffling.
    """
    shuffled = []
    for demos in shown:
        outputs = [demos[i].output for i in rng.permutation(len(demos))]
        shuffled.append([replace(e, output=output) for e, output in zip(demos, outputs, strict=True)])
    n_layers, n_heads, _ = means.shape
    alone = np.eye(n_heads, dtype=np.float32)
    patches = [
        Steering((Edit(layer, "heads", "mix", True, means[layer], alone[head]),))
        for layer in range(n_layers)
        for head in range(n_heads)
    ]
    bits = model.bits_under([Steering(()), *patches], queries, shuffled)
    return (bits[0] - bits[1:]).mean(axis=1).reshape(n_layers, n_heads)
