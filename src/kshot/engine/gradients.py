"""Gradients of single examples, in batches.

Texts share a row, where each sees itself alone, so one backward pass of the summed loss gives every text its own
gradient: with respect to vectors before it, as each text has its own copy of them; with respect to a linear layer's
weights as the sum over the text's tokens of (gradient of the output) x (input). Gradients of weights are never summed
over texts, and nothing below the lowest layer asked for is run backwards.

Source: soft-prefix gradients along training: Zhang et al. (2025), https://arxiv.org/abs/2506.04579; gradients of linear
layers: Goodfellow (2015), https://arxiv.org/abs/1510.01799; directions of AdamW: Xia et al. (2024), LESS, section 3,
https://arxiv.org/abs/2402.04333; projection by a count sketch: Charikar, Chen and Farach-Colton (2002),
https://doi.org/10.1016/S0304-3975(03)00400-6, and Weinberger et al. (2009), https://arxiv.org/abs/0902.2206.
Differs: many examples at once; training takes the mean over a batch's supervised tokens, whatever `loss` is.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kshot.core.errors import DamagedError, ModelError
from kshot.core.gradient_settings import GradientSettings, GradientStore
from kshot.core.lessons import Training
from kshot.core.seeding import digest, generator
from kshot.engine.training import Trainer
from kshot.engine.training_rows import TrainingRow, answer_losses, parts
from kshot.models.hf import Backbone
from kshot.models.prefix import Prefix
from kshot.models.products import fast_products
from kshot.models.weights import TrainedWeights
from kshot.store.arrays import Rows, Shape, open_rows

GRADIENTS_VERSION = 4
_MOST_TOKENS, _MOST_TOKENS_ELSEWHERE = 512, 8192
_MOST_NUMBERS = 2**28  # of gradients that are taken at once: 1 GB
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # those of AdamW


class ExampleGradients:
    """Takes the gradients of single texts on one network.

    Args:
        backbone: The network; its own weights stay as they are.
        how: Settings.
        can_pack: Whether texts may share a row.
        seed: For the first values of what is trained, the order of training, and the projection.
        weights: With respect to what, as it is now, in place of what would be trained; `how` has no epochs then.
    """

    def __init__(
        self,
        backbone: Backbone,
        how: GradientSettings,
        *,
        can_pack: bool,
        seed: int,
        weights: TrainedWeights | None = None,
    ):
        self._backbone, self._how, self._can_pack, self._seed = backbone, how, can_pack, seed
        self.weights: Prefix | TrainedWeights | None = weights
        if weights is not None:
            assert how.of == "lora"
            assert not how.epochs
        elif how.of == "prefix":
            self.weights = Prefix(backbone, how.tokens, first=how.first, seed=seed)
        elif how.of == "lora":
            self.weights = TrainedWeights(backbone, "lora", rank=how.rank, seed=seed)
        self._max_tokens = _MOST_TOKENS if backbone.device.type == "cpu" else _MOST_TOKENS_ELSEWHERE

    def along_training(
        self,
        rows: Sequence[TrainingRow],
        *,
        about: dict[str, str],
        store: GradientStore,
        progress: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """Return each text's gradients at all snapshots, `[n_texts, n_snapshots * dim]`, memory-mapped.

        What is stored is not computed again; what is not is computed in batches that depend on the texts alone, so an
        interrupted computation ends with the same values.

        Args:
            rows: The texts.
            about: What they belong to, for the store.
            store: Where gradients are kept.
            progress: Called with the number of texts that were run.

        Raises:
            UserError: The store holds gradients of something else.
            ModelError: A gradient is not finite, or training diverges.
        """
        rows = [self.prepared(row) for row in rows]
        how, n = self._how, len(rows)
        name = f"{how.of}-{digest(repr(how), self._seed, GRADIENTS_VERSION)[:8]}-n{n}"
        texts = digest([(row.ids, row.supervised) for row in rows])
        about = about | {"examples": texts, "settings": repr(how), "seed": str(self._seed)}
        steps = how.snapshot_steps(n)
        with nullcontext(store.folder) if store.folder else TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.safetensors"
            kept = open_rows(file, Shape(n, len(steps), self.dim), about, rebuild=store.rebuild, say=store.say)
            if kept.missing.any():
                self._fill(kept, rows, steps, file, digest(about), store.say, progress)
            else:
                progress(how.n_runs(n))
            for snapshot in file.parent.glob(f"{name}.*.snapshot*.safetensors"):
                snapshot.unlink()
        return kept.values

    def _fill(
        self,
        kept: Rows,
        rows: Sequence[TrainingRow],
        steps: Sequence[int],
        file: Path,
        whose: str,
        say: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        """Compute what is not there yet; snapshots beside the file are told apart by `whose` they are."""
        batches = self.batches(rows)
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        snapshots = [file.with_name(f"{file.stem}.{whose[:8]}.snapshot{i}.safetensors") for i in range(len(steps))]
        trainer = self._trained(rows, steps, snapshots, whose, say, progress)
        for i, snapshot in enumerate(snapshots):
            if trainer:
                trainer.load(snapshot)
            for start, batch in zip(starts, batches, strict=False):
                if kept.missing[start : start + len(batch), i].any():
                    found = self._directions(batch, trainer).cpu().numpy()
                    _check(found, start)
                    kept.fill(start, i, found)
                progress(len(batch))

    def _trained(
        self,
        rows: Sequence[TrainingRow],
        steps: Sequence[int],
        snapshots: Sequence[Path],
        whose: str,
        say: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> Trainer | None:
        """Train on all texts, keeping the state at some steps; go on after the first of them that are there."""
        if self.weights is None or not self._how.epochs:
            return None
        how, n = self._how, len(rows)
        trainer = Trainer(
            self._backbone, self.weights, Training(lr=how.lr, clip=0), fingerprint=whose, can_pack=self._can_pack
        )
        for snapshot in takewhile(Path.exists, snapshots):
            try:
                trainer.load(snapshot)
            except DamagedError as error:
                say(f"gradients go on from an earlier step: {error}")
                break
        per_epoch = ceil(n / how.batch)
        for step in range(how.epochs * per_epoch):
            order = generator(self._seed, "epoch", step // per_epoch).permutation(n)
            batch = order[step % per_epoch * how.batch :][: how.batch]
            if step >= trainer.n_steps:
                trainer.set_lr(how.lr_at(step, n))
                trainer.step([rows[j] for j in batch])
                if step + 1 in steps:
                    trainer.save(snapshots[steps.index(step + 1)], {})
            progress(len(batch))
        return trainer

    def prepared(self, row: TrainingRow) -> TrainingRow:
        """Return the text with room for the prefix, after the token that begins a text."""
        n = self._how.tokens if self._how.of == "prefix" else 0
        at = int(row.ids[:1] == self._backbone.first_ids)
        ids = (*row.ids[:at], *[0] * n, *row.ids[at:])
        supervised = tuple(s + n if s >= at else s for s in row.supervised)
        return replace(row, ids=ids, supervised=supervised, soft=tuple(range(at, at + n)))

    @property
    def dim(self) -> int:
        """Numbers in a gradient at one snapshot."""
        return self._how.projection if self._is_projected else self._n_numbers

    @property
    def _is_projected(self) -> bool:
        return 0 < self._how.projection < self._n_numbers

    @property
    def _n_numbers(self) -> int:
        """Numbers in a gradient before it is projected."""
        if isinstance(self.weights, Prefix):
            return self.weights.soft.numel()
        return sum(m.weight.numel() for m in self._linear_layers())

    def _linear_layers(self) -> list[Any]:
        """Return the layers whose weights' gradients are taken."""
        if isinstance(self.weights, TrainedWeights):
            return self.weights.linear_layers()
        return [m for m in self._backbone.blocks[-1].modules() if isinstance(m, nn.Linear) or _is_transposed(m)]

    def batches(self, rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
        """Divide texts into those that are run at once."""
        # Each text's gradient is whole before it is projected: short texts count as long ones where that is large
        least = ceil(self._max_tokens * self._n_numbers / _MOST_NUMBERS)
        size = {"max_tokens": self._max_tokens, "size": lambda row: max(least, len(row.ids))}
        return list(parts(rows, can_pack=self._can_pack, **size))

    def _directions(self, batch: Sequence[TrainingRow], trainer: Trainer | None) -> torch.Tensor:
        """Return what is stored of each text at the present snapshot, `[n_texts, dim]`."""
        with self.weights.active() if self.weights else nullcontext():
            found = self.gradients(batch)
        if self._how.adam and trainer:
            first, second = trainer.moments()
            found = (_BETA_1 * first + (1 - _BETA_1) * found) / torch.sqrt(
                _BETA_2 * second + (1 - _BETA_2) * found.square() + _EPSILON
            )
        return self._projected(found) if self._is_projected else found

    @fast_products()
    def gradients(self, batch: Sequence[TrainingRow]) -> torch.Tensor:
        """Return each text's own gradient with the present weights, `[n_texts, dim]` in float32."""
        if isinstance(self.weights, Prefix):
            copies = self.weights.soft.detach().expand(len(batch), -1, -1).clone().requires_grad_()
            loss = self._loss(batch, answer_losses(self._backbone, batch, copies))
            return torch.autograd.grad(loss, copies)[0].flatten(1)
        layers = self._linear_layers()
        inputs: dict[Any, torch.Tensor] = {}
        outputs: dict[Any, torch.Tensor] = {}

        def remember(layer: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            inputs[layer], outputs[layer] = given[0].detach(), out

        hooks = [layer.register_forward_hook(remember) for layer in layers]
        try:
            loss = self._loss(batch, answer_losses(self._backbone, batch, from_inputs=True))
        finally:
            for hook in hooks:
                hook.remove()
        at_outputs = torch.autograd.grad(loss, [outputs[layer] for layer in layers])
        sizes = [len(row.ids) for row in batch]
        found = []
        for layer, at_output in zip(layers, at_outputs, strict=True):
            pairs = zip(at_output[0].float().split(sizes), inputs[layer][0].float().split(sizes), strict=True)
            turned = [(given, out) if _is_transposed(layer) else (out, given) for out, given in pairs]
            found.append(torch.stack([(left.T @ right).flatten() for left, right in turned]))  # [n_texts, out * in]
        return torch.cat(found, dim=1)

    def _loss(self, batch: Sequence[TrainingRow], losses: torch.Tensor) -> torch.Tensor:
        """Return the sum over texts of the sum, or the mean, over their answers' tokens."""
        if self._how.loss == "sum":
            return losses.sum()
        counts = torch.tensor([len(row.supervised) for row in batch], device=losses.device)
        return (losses / counts.repeat_interleave(counts)).sum()

    @cached_property
    def _sketch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The place in the projection, and the sign, of each number of a gradient, `[n_numbers]` each."""
        rng, k = generator(self._seed, "projection"), self._how.projection
        places = torch.from_numpy(rng.integers(k, size=self._n_numbers))
        signs = torch.from_numpy(2 * rng.integers(2, size=self._n_numbers, dtype=np.int8) - 1)
        return places.to(self._backbone.device), signs.to(self._backbone.device, torch.float32)

    def _projected(self, rows: torch.Tensor) -> torch.Tensor:
        """Add each number, with a random sign, to one of `projection` random places, `[n, n_numbers]` -> `[n, k]`.

        Products of two projected rows are right on average, with the variance of a projection by a full matrix of
        random signs, (|x|^2 |y|^2 + (x y)^2 - 2 sum x_i^2 y_i^2) / k, and cost n_numbers instead of n_numbers x k.
        """
        places, signs = self._sketch
        return torch.zeros(len(rows), self._how.projection, device=rows.device).index_add_(1, places, rows * signs)


def _is_transposed(layer: Any) -> bool:
    """Return whether it is one of GPT-2's linear layers, whose weights are [in, out]."""
    return type(layer).__name__ == "Conv1D"


def _check(found: NDArray[np.float32], start: int) -> None:
    """Raise ModelError for a gradient that is not finite."""
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise ModelError(
            f"Gradients must be finite numbers; that of example {start + int(bad[0]) + 1} is not. Use --dtype float32, "
            "or a smaller lr."
        )
