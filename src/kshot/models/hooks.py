"""Reading and changing a backbone's activations, by hooks that are gone when the work is done.

Three sites in each layer: the output of the MLP, the input of the attention's output projection (the outputs of its
heads, one after the other), and the residual stream after the layer. Hooks are put on whatever stands at these places
while they are attached, so adapters that are active are hooked instead of the layers they stand for.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from kshot.core.errors import ModelError
from kshot.core.steering import HOOKED, SPANS, Edit, Shape, Steering
from kshot.models.hf import Backbone

_ATTENTIONS = ("self_attn", "self_attention", "attention", "attn")
_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense")
_MLPS = ("mlp", "feed_forward")

Change = Callable[[torch.Tensor], torch.Tensor]


def shape_of(backbone: Backbone) -> Shape:
    """Return the sizes of a backbone's activations; the width of a head is that of the projection's input.

    Raises:
        ModelError: The architecture has not the modules where activations are read and changed.
    """
    for layer in range(len(backbone.blocks)):
        for site in HOOKED:
            _module(backbone, layer, site)
    weight = _projection(backbone, 0).weight
    # transformers' Conv1D, of GPT-2, keeps its weight the other way round
    width, n_inputs = weight.shape[::-1] if _is_transposed(backbone) else weight.shape
    n_heads = backbone.config.num_attention_heads
    return Shape(len(backbone.blocks), int(width), n_heads, int(n_inputs) // n_heads)


def check(backbone: Backbone, steering: Steering) -> None:
    """Check that a steering suits a backbone.

    Raises:
        ModelError: It was made for activations of other sizes, or the architecture has none of its sites.
    """
    shape = shape_of(backbone)
    for edit in steering.edits:
        wanted = shape.at(edit.site)
        found = edit.vectors.shape if edit.operation in ("mix", "weigh") else edit.vectors.shape[1:]
        if edit.layer >= shape.n_layers or found != wanted:
            raise ModelError(
                f"A steering of '{backbone.name}' must have {list(wanted)} numbers at '{edit.site}' of one of its "
                f"{shape.n_layers} layers; this one has {list(found)} at layer {edit.layer}: it is another model's. "
                "Fit it on this model."
            )


@torch.no_grad()
def write_heads(backbone: Backbone, heads: torch.Tensor) -> torch.Tensor:
    """Return what each head's output adds to the output of its attention, `[n_layers, n_heads, width]`.

    Args:
        backbone: The network.
        heads: `[n_layers, n_heads, head_dim]`.
    """
    n_layers, n_heads, dim = heads.shape
    found = []
    for layer in range(n_layers):
        weight = _projection(backbone, layer).weight.float()
        weight = weight.T if _is_transposed(backbone) else weight  # [width, n_heads * dim]
        parts = weight.reshape(-1, n_heads, dim)
        found.append(torch.einsum("whd,hd->hw", parts, heads[layer].to(weight)))
    return torch.stack(found)


@contextmanager
def steered(backbone: Backbone, steerings: Sequence[Steering]) -> Iterator[None]:
    """Let a backbone compute with changed activations.

    A steering's edits of last tokens act at tokens with its mark, 1 for the first; edits of every token act everywhere,
    so they are for one steering alone.
    """
    changes: dict[tuple[int, str], list[Change]] = {}
    for mark, steering in enumerate(steerings, start=1):
        for edit in steering.edits:
            if edit.operation == "weigh":
                continue
            change = _change(backbone, edit, mark if edit.last_only else 0)
            changes.setdefault((edit.layer, edit.site), []).append(change)
    weights = [edit for steering in steerings for edit in steering.edits if edit.operation == "weigh"]
    with changing(backbone, changes), weighing(backbone, weights):
        yield


@contextmanager
def weighing(backbone: Backbone, edits: Sequence[Edit]) -> Iterator[None]:
    """Let packed rows (`kshot.engine.attention`) add weights to the scores of attention; other passes are refused.

    The flag of a token outside a span has the span's place in `SPANS`.
    """
    if not edits:
        yield
        return
    weights: dict[int, dict[int, NDArray[np.float32]]] = {}
    for edit in edits:
        own, flag = weights.setdefault(edit.layer, {}), list(SPANS).index(edit.span)
        own[flag] = own.get(flag, np.float32(0)) + edit.weights * edit.vectors[:, 0]

    def refuse(*_: Any) -> None:
        if not backbone.is_packed:
            raise ModelError(
                f"Attention of '{backbone.name}' is weighed where it is asked in packed rows alone, and not by other "
                "software or in plain passes. Use the model without this steering."
            )

    before, hook = backbone.log_weights, backbone.model.register_forward_pre_hook(refuse)
    backbone.log_weights = weights
    try:
        yield
    finally:
        backbone.log_weights = before
        hook.remove()


@contextmanager
def changing(backbone: Backbone, changes: dict[tuple[int, str], list[Change]]) -> Iterator[None]:
    """Attach changes at (layer, site), which are made one after the other; inside it they can be nested."""

    def all_of(own: list[Change]) -> Change:
        def change(x: torch.Tensor) -> torch.Tensor:
            for one in own:
                x = one(x)
            return x

        return change

    with ExitStack() as attached:
        for place, own in changes.items():
            attached.callback(_attach(backbone, *place, all_of(own)).remove)
        yield


@contextmanager
def reading(backbone: Backbone, site: str, places: tuple[torch.Tensor, torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Collect the activations at a site.

    Args:
        backbone: The network.
        site: One of `HOOKED`.
        places: Which row of the batch, and where in it, `[n]` each.

    Yields:
        A list that has, after a forward pass, for each layer `[n, size]`.
    """
    found: list[torch.Tensor] = []

    def read(x: torch.Tensor) -> torch.Tensor:
        found.append(x[places].detach().float())
        return x

    with ExitStack() as attached:
        for layer in range(len(backbone.blocks)):
            attached.callback(_attach(backbone, layer, site, read).remove)
        yield found


def _attach(backbone: Backbone, layer: int, site: str, change: Change) -> Any:
    """Hook a change of one tensor in; return the hook's handle."""
    module = _module(backbone, layer, site)
    if site == "heads":
        return module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))

    def behind(_: Any, inputs: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(behind)


def _change(backbone: Backbone, edit: Edit, mark: int) -> Change:
    vectors = torch.from_numpy(edit.vectors).to(backbone.device)
    weights = torch.from_numpy(edit.weights).to(backbone.device)

    def apply(x: torch.Tensor) -> torch.Tensor:
        if edit.operation == "mix":
            return mixed(x, vectors, weights)
        return _CHANGES[edit.operation](x.float(), vectors, weights).to(x.dtype)

    return at_marked(backbone, apply, mark) if mark else apply


def at_marked(backbone: Backbone, apply: Change, mark: int) -> Change:
    """Return the change of the tokens that have a mark; the others stay as they are."""

    def change(x: torch.Tensor) -> torch.Tensor:
        places = backbone.places.get(mark)
        return x if places is None else x.index_put(places, apply(x[places]))

    return change


def turned(x: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return x turned towards vectors, with its norm; see `kshot.core.steering.Edit`."""
    own, aims = normalize(x, dim=-1), normalize(vectors, dim=-1)  # [..., width], [n, width]
    by = weights * (1 + (-own @ aims.T).clamp(min=0)) / len(weights)  # [..., n]
    return x.norm(dim=-1, keepdim=True) * normalize(own + by @ aims, dim=-1)


def _added(x: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return x + weights @ vectors / len(weights)


def component_set(x: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return x with the component of the vector `[1, width]` along it; see `kshot.core.steering.Edit`."""
    (aim,), size = normalize(vectors, dim=-1), vectors.norm()
    return x + weights * (size - x @ aim)[..., None] * aim


_CHANGES = {"turn": turned, "add": _added, "set": component_set}


def mixed(x: torch.Tensor, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return heads' outputs x, `[..., n_heads * head_dim]`, mixed with vectors `[n_heads, head_dim]`."""
    share = weights[:, None].to(x.dtype)
    return ((1 - share) * x.unflatten(-1, vectors.shape) + share * vectors.to(x.dtype)).flatten(-2)


def _is_transposed(backbone: Backbone) -> bool:
    return type(_projection(backbone, 0)).__name__ == "Conv1D"


def _projection(backbone: Backbone, layer: int) -> Any:
    """Return the attention's output projection without adapters."""
    module = _module(backbone, layer, "heads")
    return getattr(module, "base_layer", module)


def _module(backbone: Backbone, layer: int, site: str) -> Any:
    block = backbone.blocks[layer]
    if site == "block":
        return block
    if site == "mlp":
        return _child(backbone, block, _MLPS, "the MLP")
    attention = _child(backbone, block, _ATTENTIONS, "the attention")
    inner = next((getattr(attention, n) for n in _ATTENTIONS if hasattr(attention, n)), attention)
    return _child(backbone, inner, _PROJECTIONS, "the attention's output projection")


def _child(backbone: Backbone, parent: Any, names: Sequence[str], what: str) -> Any:
    for name in names:
        if isinstance(getattr(parent, name, None), torch.nn.Module):
            return getattr(parent, name)
    have = ", ".join(name for name, _ in parent.named_children()) or "none"
    raise ModelError(
        f"Activations of '{backbone.name}' ({backbone.config.model_type}) cannot be changed: {what} must be a module "
        f"called {' or '.join(names)}, as in Llama, Gemma, Qwen, Mistral, GPT-2 and GPT-NeoX; there is {have}. Use a "
        "recipe without a steerer."
    )
