"""Small networks on sequences of vectors, and the one loop that trains them: attention alone, a decoder, an LSTM.

All compute on one thread, so that the same seed gives the same bits with any number of threads and workers.
"""

from bisect import bisect_right
from collections.abc import Callable
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kshot.core.errors import DamagedError
from kshot.core.lessons import DivergedError
from kshot.core.locks import ONE_THREAD
from kshot.core.progress import Progress
from kshot.encoders.encoder import one_thread
from kshot.models.gradient_mode import learning
from kshot.models.training_state import read_state, write_state

N = TypeVar("N", bound=nn.Module)
STEPS_BETWEEN_STATES = 250
CLIP = 1.0  # the largest norm of a gradient
WIDER = 4  # the hidden layer of a block is so many times as wide as its input


class AttentionOnly(nn.Module):
    """Two layers of causal attention with one head each and residual connections, then a classifier on the last place.

    There is no normalisation and no layer between the two, so that what a head looks at can be read from its weights.

    Args:
        dim: Of the vectors.
        n_out: Of the outputs.
        hidden: Of the classifier's two hidden layers.

    Source: Reddy (2023), https://arxiv.org/abs/2312.03002.
    """

    def __init__(self, dim: int, n_out: int, hidden: int = 128):
        super().__init__()
        self.first, self.second = OneHead(dim), OneHead(dim)
        self.classifier = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits at the last place, `[batch, n_out]`, of vectors `[batch, length, dim]`."""
        return self.looked(x)[0]

    def looked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the first layer's attention `[batch, length, length]`, the last place's `[batch, length]`."""
        seen, first = self.first(x, x)
        x = x + seen
        seen, second = self.second(x[:, -1:], x)
        return self.classifier(x[:, -1] + seen[:, 0]), first, second[:, 0]


class OneHead(nn.Module):
    """An attention head as wide as its vectors."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))

    def forward(self, asking: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen `[batch, n, dim]` and the attention `[batch, n, length]` of the last n places.

        Args:
            asking: The vectors at these places, `[batch, n, dim]`.
            x: All vectors, `[batch, length, dim]`.
        """
        scores = self.query(asking) @ self.key(x).transpose(1, 2) / sqrt(x.shape[2])
        n, length = scores.shape[1:]
        future = torch.ones(n, length, dtype=torch.bool).triu(length - n + 1)
        attention = scores.masked_fill(future, -torch.inf).softmax(-1)
        return attention @ self.value(x), attention


class Decoder(nn.Module):
    """A small network like GPT-2 on vectors: read-in, learnt positions, causal blocks, read-out at every place.

    Args:
        dim_in: Of the vectors.
        dim_out: Of the outputs.
        width: Of the blocks; a multiple of `heads`.
        layers: How many blocks.
        heads: Of each block's attention.
        length: The longest sequence.
    """

    def __init__(self, dim_in: int, dim_out: int, *, width: int, layers: int, heads: int, length: int):
        super().__init__()
        self.read_in = nn.Linear(dim_in, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.read_out = nn.Linear(width, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs `[batch, length, dim_out]` of vectors `[batch, length, dim_in]`; none sees a later one."""
        return self.read_out(self.states(x))

    def states(self, x: Tensor) -> Tensor:
        """Return what is read out, `[batch, length, width]`."""
        x = self.read_in(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Block(nn.Module):
    """Causal attention and a layer of neurons, each on normalised inputs and added to them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of the same shape."""
        batch, length, width = x.shape
        # [batch, length, 3 * width] -> three times [batch, heads, length, width / heads]
        split = self.attention(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Recurrent(nn.Module):
    """An LSTM on vectors: read-in, layers, read-out at every place.

    Args:
        dim_in: Of the vectors.
        dim_out: Of the outputs.
        width: Of each layer.
        layers: How many.
    """

    def __init__(self, dim_in: int, dim_out: int, *, width: int, layers: int):
        super().__init__()
        self.read_in = nn.Linear(dim_in, width)
        self.layers = nn.LSTM(width, width, layers, batch_first=True)
        self.read_out = nn.Linear(width, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs `[batch, length, dim_out]` of vectors `[batch, length, dim_in]`."""
        return self.read_out(self.layers(self.read_in(x))[0])


def n_weights(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(p.numel() for p in network.parameters())


def recurrent_as_large(n: int, dim_in: int, dim_out: int, *, layers: int) -> Recurrent:
    """Return the widest LSTM, without values, that has no more than `n` weights, such as those of a `Decoder`."""
    with torch.device("meta"):

        def weights(width: int) -> int:
            return n_weights(Recurrent(dim_in, dim_out, width=width, layers=layers))

        width = max(1, bisect_right(range(1, n + 1), n, key=weights))
        return Recurrent(dim_in, dim_out, width=width, layers=layers)


def made(build: Callable[[], N], rng: np.random.Generator) -> N:
    """Return a network with weights drawn from `rng`; torch's own chance is left alone.

    Layers are uniform within 1 / sqrt(inputs), positions normal with deviation 0.02, norms 1 and 0.
    """
    with learning():
        with torch.device("meta"):
            network = build()
        network.to_empty(device="cpu")
        with torch.no_grad():
            for module in network.modules():
                own = list(module.parameters(recurse=False))
                if isinstance(module, nn.LayerNorm):
                    module.weight.fill_(1.0)
                    module.bias.fill_(0.0)
                elif isinstance(module, nn.Embedding):
                    _fill(own[0], 0.02 * rng.standard_normal(own[0].shape))
                elif own:
                    reach = 1 / sqrt(own[0].shape[1])
                    for values in own:
                        _fill(values, rng.uniform(-reach, reach, tuple(values.shape)))
    return network


def _fill(values: Tensor, found: np.ndarray) -> None:
    values.copy_(torch.from_numpy(found))


def points(steps: int, n: int) -> list[int]:
    """Return after which steps a training is measured: `n` times at equal distances, the start and the end too."""
    return sorted({round(i * steps / n) for i in range(n + 1)})


def train(
    network: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    measure: Callable[[], dict[str, Any]],
    *,
    steps: int,
    rng: np.random.Generator,
    progress: Progress,
    measured: int = 20,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: int = 0,
    until: Callable[[dict[str, Any]], bool] | None = None,
    state: Path | None = None,
) -> list[dict[str, Any]]:
    """Train a network with AdamW, and return a row for each point at which it was measured.

    Each row has `step`, `loss_nats` (the mean since the point before; None at the start) and what `measure` returns.

    Args:
        network: What is trained, in place.
        loss: Draws a batch with the generator that it is given, and returns the mean loss, a scalar.
        measure: Called without gradients; it must draw nothing from `rng`, nor change anything.
        steps: How many.
        rng: For the batches.
        progress: Told of each step.
        measured: How many times it is measured after the start, at equal distances.
        lr: The learning rate, after `warmup`.
        weight_decay: AdamW's.
        warmup: Over so many steps the learning rate grows to `lr`.
        until: Training ends at the first point after the start whose row it holds for; the other steps count as done.
        state: A file for where the training is; where it is there, the training goes on from it to the same bits.
            Network, `measure` and `rng` are then to be as they were at the beginning.

    Raises:
        DivergedError: The loss is not finite.
        StorageError: The state cannot be written.
    """
    with ONE_THREAD, one_thread(), learning():
        optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
        rows, losses = list[dict[str, Any]](), list[float]()
        done = 0
        if state is not None and (found := _read(state, progress)):
            done, rows, losses = _go_on(found, network, optimiser, rng)
            progress.advance(done)
        when = set(points(steps, measured))
        if not rows:
            rows.append(_row(0, losses, network, measure))
        for step in range(done + 1, steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, step / (warmup + 1))
            optimiser.zero_grad()
            value = loss(rng)
            value.backward()
            losses.append(float(value.detach()))
            if not isfinite(losses[-1]):
                raise DivergedError(f"The loss must be finite; at step {step} it is {losses[-1]}. Lower lr.")
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            if step in when:
                rows.append(_row(step, losses, network, measure))
                losses.clear()
                if until is not None and until(rows[-1]):
                    progress.advance(steps - step + 1)
                    break
            if state is not None and step % STEPS_BETWEEN_STATES == 0 and step < steps:
                _keep(state, step, rows, losses, network, optimiser, rng)
            progress.advance(1)
    return rows


def _row(step: int, losses: list[float], network: nn.Module, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    network.eval()
    with torch.no_grad():
        found = measure()
    network.train()
    return {"step": step, "loss_nats": sum(losses) / len(losses) if losses else None, **found}


def _keep(
    file: Path,
    done: int,
    rows: list[dict[str, Any]],
    losses: list[float],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    tensors = {f"weights.{name}": p for name, p in network.named_parameters()}
    for i, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{i}.{what}": value for what, value in values.items()}
    about = {"done": done, "rows": rows, "losses": losses, "rng": rng.bit_generator.state}
    write_state(file, tensors, about)


def _read(file: Path, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not file.exists():
        return None
    try:
        return read_state(file)
    except DamagedError:
        progress.say(f"note: {file} is damaged: this training begins again")
        file.unlink()
        return None


def _go_on(
    found: tuple[dict[str, Tensor], dict[str, Any]],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> tuple[int, list[dict[str, Any]], list[float]]:
    tensors, about = found
    network.load_state_dict(
        {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimiser":
            i, _, what = rest.partition(".")
            moments.setdefault(int(i), {})[what] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    rng.bit_generator.state = about["rng"]
    return about["done"], about["rows"], about["losses"]
